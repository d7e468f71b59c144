#include "eval/report.h"

#include <cmath>
#include <cstdio>

#include "util/error.h"

namespace dga {
namespace {

using nlohmann::json;

template <class T>
json optional_json(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

std::string averaging_rule(const EvalResult& result) {
  const std::string scored = result.protocol == EvalProtocol::sliding
                                 ? "every token scored once, by the first window that holds it"
                                 : "all tokens of every full window";
  const std::string mean = "perplexity = exp(mean NLL over scored tokens)";
  return scored + "; " + mean +
         (result.per_document ? "; document_perplexity_mean = mean over documents of exp(mean NLL of the document)"
                              : "");
}

json length_json(const LengthResult& length) {
  json positions = json::array();
  for (const PositionResult& part : length.by_position) {
    const json nll = part.sum.tokens > 0 ? json(part.sum.mean()) : json(nullptr);
    positions.push_back({{"begin", part.begin}, {"end", part.end}, {"tokens", part.sum.tokens}, {"nll", nll}});
  }
  return {{"context_length", length.context_length},
          {"stride", length.stride},
          {"windows", length.windows},
          {"documents_scored", length.documents_scored},
          {"tokens_scored", length.tokens_scored},
          {"nll", length.nll},
          {"perplexity", length.perplexity},
          {"nll_ci95", optional_json(length.nll_ci95)},
          {"by_position", positions},
          {"document_perplexity_mean", optional_json(length.document_perplexity_mean)},
          {"bits_per_byte", optional_json(length.bits_per_byte)},
          {"visible_pairs_per_token", optional_json(length.visible_pairs_per_token)},
          {"seconds", length.seconds}};
}

std::string number(const json& value, int digits) {
  if (!value.is_number()) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value.get<double>());
  return text;
}

/// Columns that a terminal shows for UTF-8 text.
size_t display_width(const std::string& text) {
  size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return width;
}

using Row = std::vector<std::string>;

/// Pads every column to its widest cell: the first to the left, the others to the right.
std::string align(const std::vector<Row>& rows) {
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - display_width(row[i]), ' ');
      const bool left = i == 0 || i + 1 == row.size();
      line += (i > 0 ? "  " : "") + (left ? row[i] + padding : padding + row[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

Row table_row(const json& result, const json& length) {
  return {result.at("attention").get<std::string>(),
          number(length.at("context_length"), 0),
          number(length.at("visible_pairs_per_token"), 1),
          number(length.at("tokens_scored"), 0),
          number(length.at("stride"), 0),
          number(length.at("nll"), 4),
          number(length.value("nll_ci95", json()), 4),
          number(length.at("perplexity"), 3),
          number(length.at("document_perplexity_mean"), 3),
          number(length.at("bits_per_byte"), 4),
          result.at("looks_ahead").get<bool>() ? "looks ahead" : ""};
}

/// Removes a column that has nothing but its header and dashes.
void drop_column_if_empty(std::vector<Row>& rows, size_t column) {
  for (size_t i = 1; i < rows.size(); ++i) {
    if (rows[i][column] != "-") return;
  }
  for (Row& row : rows) row.erase(row.begin() + static_cast<std::ptrdiff_t>(column));
}

}  // namespace

json eval_json(const EvalResult& result) {
  json lengths = json::array();
  for (const LengthResult& length : result.lengths) lengths.push_back(length_json(length));
  return {{"protocol", config::name_of(result.protocol)},
          {"averaging", averaging_rule(result)},
          {"per_document", result.per_document},
          {"truncate_to_context", result.truncate_to_context},
          {"attention", result.attention},
          {"attention_settings", result.attention_settings},
          {"looks_ahead", result.looks_ahead},
          {"text",
           {{"documents", result.text_documents},
            {"tokens", result.text_tokens},
            {"bytes", optional_json(result.text_bytes)},
            {"unigram_entropy", result.entropy.unigram},
            {"bigram_entropy", result.entropy.bigram}}},
          {"results", lengths}};
}

std::string eval_table(const std::vector<json>& results) {
  constexpr size_t kIntervalColumn = 6, kDocumentColumn = 8;
  std::vector<Row> rows{{"attention", "context", "pairs/token", "scored", "stride", "NLL", "±95%", "perplexity",
                         "mean by document", "bits/byte", "note"}};
  try {
    for (const json& result : results) {
      for (const json& length : result.at("results")) rows.push_back(table_row(result, length));
    }
  } catch (const json::exception& error) {
    fail(ExitCode::input, "not a result of dga eval: ", error.what());
  }
  drop_column_if_empty(rows, kDocumentColumn);
  drop_column_if_empty(rows, kIntervalColumn);
  return align(rows);
}

std::string eval_text_line(const json& result) {
  try {
    const json& text = result.at("text");
    const std::string bytes = text.at("bytes").is_null() ? "" : ", " + number(text.at("bytes"), 0) + " bytes";
    return str("text: ", number(text.at("documents"), 0), " documents, ", number(text.at("tokens"), 0), " tokens",
               bytes, "; entropy of its own tokens in nats: unigram ", number(text.at("unigram_entropy"), 4),
               ", bigram ", number(text.at("bigram_entropy"), 4));
  } catch (const json::exception& error) {
    fail(ExitCode::input, "not a result of dga eval: ", error.what());
  }
}

}  // namespace dga
