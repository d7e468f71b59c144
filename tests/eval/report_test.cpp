#include "eval/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "eval/attention_label.h"

namespace dga {
namespace {

EvalResult some_result() {
  EvalResult result;
  result.attention = "full";
  result.text_documents = 3;
  result.text_tokens = 1000;
  result.entropy = {5.5, 2.25};
  LengthResult length;
  length.context_length = 128;
  length.stride = 64;
  length.windows = 14;
  length.tokens_scored = 999;
  length.nll = 2.0;
  length.perplexity = 7.389056;
  length.documents_scored = 1;
  length.visible_pairs_per_token = 64.5;
  result.lengths = {length, length};
  result.lengths[1].context_length = 256;
  return result;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(EvalJson, HoldsWhatOthersNeedToRepeatIt) {
  EvalResult result = some_result();
  const nlohmann::json json = eval_json(result);
  EXPECT_EQ(json.at("protocol"), "sliding");
  EXPECT_EQ(json.at("looks_ahead"), false);
  EXPECT_TRUE(contains(json.at("averaging"), "scored once"));
  EXPECT_EQ(json.at("text").at("tokens"), 1000);
  EXPECT_EQ(json.at("text").at("unigram_entropy"), 5.5);
  EXPECT_EQ(json.at("text").at("bigram_entropy"), 2.25);
  EXPECT_TRUE(json.at("text").at("bytes").is_null());
  ASSERT_EQ(json.at("results").size(), 2U);
  const nlohmann::json& length = json.at("results").at(0);
  EXPECT_EQ(length.at("context_length"), 128);
  EXPECT_EQ(length.at("stride"), 64);
  EXPECT_EQ(length.at("windows"), 14);
  EXPECT_EQ(length.at("tokens_scored"), 999);
  EXPECT_EQ(length.at("nll"), 2.0);
  EXPECT_EQ(length.at("perplexity"), 7.389056);
  EXPECT_EQ(length.at("visible_pairs_per_token"), 64.5);
  EXPECT_TRUE(length.at("bits_per_byte").is_null());
  EXPECT_TRUE(length.at("document_perplexity_mean").is_null());

  result.protocol = EvalProtocol::longlora;
  result.per_document = true;
  result.lengths[0].bits_per_byte = 1.5;
  result.lengths[0].document_perplexity_mean = 8.0;
  const nlohmann::json other = eval_json(result);
  EXPECT_EQ(other.at("protocol"), "longlora");
  EXPECT_TRUE(contains(other.at("averaging"), "all tokens of every full window"));
  EXPECT_TRUE(contains(other.at("averaging"), "mean over documents"));
  EXPECT_EQ(other.at("results").at(0).at("bits_per_byte"), 1.5);
  EXPECT_EQ(other.at("results").at(0).at("document_perplexity_mean"), 8.0);
}

TEST(EvalTable, HasARowForEachLengthOfEachResult) {
  EvalResult ahead = some_result();
  ahead.attention = "dga global γ0.1";
  ahead.looks_ahead = true;
  const std::vector<std::string> lines = lines_of(eval_table({eval_json(some_result()), eval_json(ahead)}));
  ASSERT_EQ(lines.size(), 5U);
  for (const char* name : {"context", "pairs/token", "scored", "stride", "NLL", "perplexity", "bits/byte"}) {
    EXPECT_TRUE(contains(lines[0], name)) << name;
  }
  EXPECT_FALSE(contains(lines[0], "by document"));
  for (const char* value : {"full", "128", "64.5", "999", "64", "2.0000", "7.389"}) {
    EXPECT_TRUE(contains(lines[1], value)) << value << " in " << lines[1];
  }
  EXPECT_TRUE(contains(lines[2], "256"));
  for (const int i : {1, 2}) EXPECT_FALSE(contains(lines[i], "looks ahead"));
  for (const int i : {3, 4}) EXPECT_TRUE(contains(lines[i], "looks ahead"));
  // Numbers stand under each other although γ takes two bytes.
  EXPECT_EQ(lines[1].find("7.389") + 1, lines[3].find("7.389"));
}

TEST(EvalTable, ShowsTheMeanByDocumentWhereThereIsOne) {
  EvalResult result = some_result();
  result.lengths[1].document_perplexity_mean = 8.125;
  const std::vector<std::string> lines = lines_of(eval_table({eval_json(result)}));
  EXPECT_TRUE(contains(lines[0], "by document"));
  EXPECT_TRUE(contains(lines[2], "8.125"));
}

TEST(EvalTable, RefusesOtherJson) {
  EXPECT_THROW(eval_table({nlohmann::json{{"results", {1, 2}}}}), Error);
  EXPECT_THROW(eval_table({nlohmann::json::object()}), Error);
}

TEST(EvalTextLine, StatesSizeAndEntropies) {
  EvalResult result = some_result();
  EXPECT_EQ(eval_text_line(eval_json(result)),
            "text: 3 documents, 1000 tokens; entropy of its own tokens in nats: unigram 5.5000, bigram 2.2500");
  result.text_bytes = 4321;
  EXPECT_TRUE(contains(eval_text_line(eval_json(result)), "1000 tokens, 4321 bytes;"));
  EXPECT_THROW(eval_text_line(nlohmann::json::object()), Error);
}

TEST(AttentionLabel, NamesTheRuleAndOnlyWhatItUses) {
  AttentionConfig config;
  EXPECT_EQ(attention_label(config, 4), "full");
  config.kind = AttentionKind::dga;
  EXPECT_EQ(attention_label(config, 4), "dga global γ0.1 m16 w1024 S1024");
  config.group_bias = GroupBias::entropy;
  config.selection = Selection::causal;
  EXPECT_EQ(attention_label(config, 4), "dga causal γ0.1 m16 B256 n2 entropy");
  config.selection = Selection::none;
  config.complementary = false;
  EXPECT_EQ(attention_label(config, 4), "dga none m16 w1024 entropy no complementary");
  config.layers = {{"0-2", AttentionKind::full}};
  EXPECT_EQ(attention_label(config, 4), "full x3, dga none m16 w1024 entropy no complementary x1");
}

}  // namespace
}  // namespace dga
