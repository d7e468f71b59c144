#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/attention_bench.h"
#include "util/error.h"

namespace dga {
namespace {

using nlohmann::ordered_json;

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}
std::string fixed(const std::optional<double>& value, int digits) { return value ? fixed(*value, digits) : "-"; }

ordered_json optional_json(const std::optional<double>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

bool is_dga(const AttentionBenchRow& row) { return row.of.attention.kind == AttentionKind::dga; }

/// FLOP/s in units of 10^12 of `flops` in `ms`.
std::optional<double> teraflops(double flops, const std::optional<double>& ms) {
  if (!ms) return std::nullopt;
  return flops / *ms / 1e9;
}

std::optional<double> forward_teraflops(const AttentionBenchRow& row) {
  return teraflops(row.work.forward_flops, row.stage_ms("attention"));
}
std::optional<double> backward_teraflops(const AttentionBenchRow& row) {
  return teraflops(row.work.backward_flops, row.stage_ms("attention_backward"));
}

std::optional<double> peer_total_ms(const AttentionBenchRow& row) {
  if (!row.peer_forward_ms || !row.peer_backward_ms) return std::nullopt;
  return *row.peer_forward_ms + *row.peer_backward_ms;
}

std::string describe(const AttentionBenchRow& row) {
  const AttentionConfig& a = row.of.attention;
  std::string text = str("L ", row.of.seq_len, ", ", row.of.heads, ":", row.of.kv_heads, " x ", row.of.head_dim);
  if (row.of.batch != 1) text = str("B ", row.of.batch, ", ", text);
  text += ", " + config::name_of(a.kind);
  if (is_dga(row)) {
    text += str(" ", config::name_of(a.selection), ", γ ", a.focal_ratio, ", m ", a.group_size);
    if (a.selection == Selection::causal) {
      text += str(", B ", a.block_size, ", n ", a.local_blocks);
    } else {
      text += str(", w ", a.local_window);
      if (a.selection == Selection::global) text += str(", S ", std::min(a.sampled_queries, row.of.seq_len));
    }
    if (a.group_bias != GroupBias::none) text += ", bias " + config::name_of(a.group_bias);
    if (!a.keep_lists) text += ", lists made again";
  }
  if (a.kind != AttentionKind::dga && a.kind != AttentionKind::full) {
    text += str(", first ", a.sink_tokens, ", window ", a.window);
  }
  if (row.of.deterministic) text += ", deterministic";
  return text;
}

}  // namespace

std::string attention_bench_table(const std::vector<AttentionBenchRow>& rows) {
  std::string text =
      "| layer | forward ms | backward ms | total ms | cuDNN dense forward / backward ms | dense / total | attention "
      "TFLOP/s forward / backward | limit ms | share of limit |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- "
      "|\n";
  for (const AttentionBenchRow& row : rows) {
    const std::optional<double> dense = peer_total_ms(row);
    const double limit = limit_ms(row.work, row.rates);
    text += str("| ", describe(row), " | ", fixed(row.forward_ms, 3), " | ", fixed(row.backward_ms, 3), " | ",
                fixed(row.total_ms(), 3), " | ", fixed(row.peer_forward_ms, 3), " / ", fixed(row.peer_backward_ms, 3),
                " | ", dense ? fixed(*dense / row.total_ms(), 2) : "-", " | ", fixed(forward_teraflops(row), 0), " / ",
                fixed(backward_teraflops(row), 0), " | ", fixed(limit, 3), " | ",
                fixed(100 * limit / row.total_ms(), 0), " % |\n");
  }
  text += "\nStages, ms, each timed with a mark behind it:\n\n";
  for (const AttentionBenchRow& row : rows) {
    text += str("- ", describe(row), ":");
    for (const auto& [stage, ms] : row.stages_ms) text += str(" ", stage, " ", fixed(ms, 3), ";");
    text.back() = '\n';
  }
  if (!rows.empty()) {
    text += str("\n", rows.front().card, "; bf16; a product of 8192^3 at ",
                fixed(rows.front().rates.product_flops / 1e12, 0), " TFLOP/s, a copy at ",
                fixed(rows.front().rates.copy_bytes / 1e12, 2),
                " TB/s read and written. The limit is all counted work "
                "at these rates.\n");
  }
  return text;
}

std::string attention_bench_json(const std::vector<AttentionBenchRow>& rows, const std::string& commit) {
  ordered_json list = ordered_json::array();
  for (const AttentionBenchRow& row : rows) {
    const AttentionConfig& a = row.of.attention;
    ordered_json stages = ordered_json::object();
    for (const auto& [stage, ms] : row.stages_ms) stages[stage] = ms;
    ordered_json entry = {{"kind", config::name_of(a.kind)},
                          {"batch", row.of.batch},
                          {"seq_len", row.of.seq_len},
                          {"heads", row.of.heads},
                          {"kv_heads", row.of.kv_heads},
                          {"head_dim", row.of.head_dim},
                          {"dtype", "bf16"}};
    if (is_dga(row)) {
      entry.update({{"group_size", a.group_size},
                    {"focal_ratio", a.focal_ratio},
                    {"local_window", a.local_window},
                    {"sampled_queries", a.sampled_queries},
                    {"selection", config::name_of(a.selection)},
                    {"group_bias", config::name_of(a.group_bias)},
                    {"block_size", a.block_size},
                    {"local_blocks", a.local_blocks},
                    {"keep_lists", a.keep_lists}});
    }
    entry.update({{"deterministic", row.of.deterministic},
                  {"stages", stages},
                  {"forward_ms", row.forward_ms},
                  {"backward_ms", row.backward_ms},
                  {"total_ms", row.total_ms()},
                  {"peer_forward_ms", optional_json(row.peer_forward_ms)},
                  {"peer_backward_ms", optional_json(row.peer_backward_ms)},
                  {"visible_pairs", row.work.visible_pairs},
                  {"forward_flops", row.work.forward_flops},
                  {"backward_flops", row.work.backward_flops},
                  {"importance_flops", row.work.importance_flops},
                  {"pooling_bytes", row.work.pooling_bytes},
                  {"forward_tflops", optional_json(forward_teraflops(row))},
                  {"backward_tflops", optional_json(backward_teraflops(row))},
                  {"limit_ms", limit_ms(row.work, row.rates)},
                  {"card", row.card},
                  {"card_product_tflops", row.rates.product_flops / 1e12},
                  {"card_copy_tb_s", row.rates.copy_bytes / 1e12},
                  {"commit", commit}});
    list.push_back(entry);
  }
  return list.dump(1) + "\n";
}

}  // namespace dga
