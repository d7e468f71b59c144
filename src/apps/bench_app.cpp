#include <CLI/CLI.hpp>
#include <cstdio>
#include <set>

#include "apps/apps.h"
#include "bench/attention_bench.h"
#include "run/build_info.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace {

/// Every combination of the listed values is one case.
struct BenchAttentionOptions {
  std::vector<std::string> kinds = {"dga"};
  std::vector<int64_t> seq_lens = {8192};
  std::vector<int64_t> heads = {32};
  std::vector<int64_t> kv_heads;  // as heads where empty
  std::vector<int64_t> head_dims = {128};
  std::vector<std::string> selections = {"global"};
  std::vector<double> focal_ratios = {0.1};
  std::vector<int64_t> group_sizes = {16};
  std::vector<int64_t> local_windows = {0};
  std::vector<int64_t> sampled_queries = {1024};
  std::string group_bias = "none";
  AttentionBenchCase fixed;
  int64_t repeats = 10;
  std::string json;
};

template <class E>
std::set<std::string> names_of() {
  std::set<std::string> names;
  for (const auto& [value, name] : enum_names(E{})) names.insert(name);
  return names;
}

/// Calls `each` with every value in turn. Option parsing has checked the names.
template <class T, class Each>
void for_each_value(const std::vector<T>& values, T& place, const Each& each) {
  for (const T value : values) {
    place = value;
    each();
  }
}
template <class E, class Each>
void for_each_name(const std::vector<std::string>& names, E& place, const Each& each) {
  for (const std::string& name : names) {
    place = config::value_named<E>(name).value();
    each();
  }
}

std::vector<AttentionBenchCase> cases_of(const BenchAttentionOptions& options) {
  std::vector<AttentionBenchCase> cases;
  AttentionBenchCase c = options.fixed;
  AttentionConfig& a = c.attention;
  a.group_bias = config::value_named<GroupBias>(options.group_bias).value();
  const auto shapes = [&](const auto& each) {
    for_each_value(options.seq_lens, c.seq_len, [&] {
      for_each_value(options.heads, c.heads, [&] {
        const std::vector<int64_t> kv_heads = options.kv_heads.empty() ? std::vector{c.heads} : options.kv_heads;
        for_each_value(kv_heads, c.kv_heads, [&] { for_each_value(options.head_dims, c.head_dim, each); });
      });
    });
  };
  const auto groupings = [&](const auto& each) {
    for_each_name(options.selections, a.selection, [&] {
      for_each_value(options.focal_ratios, a.focal_ratio, [&] {
        for_each_value(options.group_sizes, a.group_size, [&] {
          if (a.selection == Selection::causal) return each();  // it has neither window nor samples
          for_each_value(options.local_windows, a.local_window,
                         [&] { for_each_value(options.sampled_queries, a.sampled_queries, each); });
        });
      });
    });
  };
  shapes([&] {
    for_each_name(options.kinds, a.kind, [&] {
      if (a.kind == AttentionKind::dga) {
        groupings([&] { cases.push_back(c); });
      } else {
        cases.push_back(c);
      }
    });
  });
  return cases;
}

ExitCode run_bench_attention(const BenchAttentionOptions& options) {
  AttentionBench bench(options.repeats);
  std::vector<AttentionBenchRow> rows;
  for (const AttentionBenchCase& c : cases_of(options)) {
    if (c.kv_heads < 1 || c.heads % c.kv_heads != 0) {
      fail(ExitCode::usage, "--heads ", c.heads, " is no multiple of --kv-heads ", c.kv_heads);
    }
    rows.push_back(bench.run(c));
    log::show_status(str("bench attention: ", rows.size(), " measured"));
  }
  log::show_status("");
  std::fputs(attention_bench_table(rows).c_str(), stdout);
  if (!options.json.empty()) write_file_atomic(options.json, attention_bench_json(rows, build_info().commit));
  return ExitCode::ok;
}

void add_bench_attention(CLI::App& bench, AppContext& context) {
  CLI::App* app = bench.add_subcommand(
      "attention", "Time attention layers on a GPU, stage by stage, beside dense attention by cuDNN.");
  auto options = std::make_shared<BenchAttentionOptions>();
  const auto list = [&](const char* name, auto& values, const char* text) {
    return app->add_option(name, values, text)->delimiter(',')->capture_default_str();
  };
  list("--kind", options->kinds, "full, dga, streaming, longformer")->check(CLI::IsMember(names_of<AttentionKind>()));
  list("--seq-len", options->seq_lens, "sequence length, tokens")->check(CLI::PositiveNumber);
  list("--heads", options->heads, "query heads")->check(CLI::PositiveNumber);
  list("--kv-heads", options->kv_heads, "key-value heads; as many as query heads where not given")
      ->check(CLI::PositiveNumber);
  list("--head-dim", options->head_dims, "64 or 128")->check(CLI::PositiveNumber);
  list("--selection", options->selections, "global, causal, random, none")->check(CLI::IsMember(names_of<Selection>()));
  list("--focal-ratio", options->focal_ratios, "γ")->check(CLI::Range(0.0, 1.0));
  list("--group-size", options->group_sizes, "m")->check(CLI::PositiveNumber);
  list("--local-window", options->local_windows, "w, tokens; not under selection causal")
      ->check(CLI::NonNegativeNumber);
  list("--sampled-queries", options->sampled_queries, "S; under selection global")->check(CLI::PositiveNumber);
  AttentionBenchCase& fixed = options->fixed;
  app->add_option("--batch", fixed.batch, "sequences")->capture_default_str()->check(CLI::PositiveNumber);
  app->add_option("--block-size", fixed.attention.block_size, "B; under selection causal")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--local-blocks", fixed.attention.local_blocks, "n; under selection causal")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_option("--group-bias", options->group_bias, "none, entropy")
      ->capture_default_str()
      ->check(CLI::IsMember(names_of<GroupBias>()));
  app->add_option("--sink-tokens", fixed.attention.sink_tokens, "first tokens of streaming and longformer")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_option("--window", fixed.attention.window, "window of streaming and longformer")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_flag("!--remake-lists", fixed.attention.keep_lists, "the backward pass makes the lists again");
  app->add_flag("--deterministic", fixed.deterministic, "bitwise reproducible gradients");
  app->add_option("--repeats", options->repeats, "timed calls, of which the median counts")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--json", options->json, "write the rows to this file")->type_name("FILE");
  app->footer("Options that take a list (8192,32768) are combined, every value with every other.");
  app->callback([options, &context] { context.action = [options] { return run_bench_attention(*options); }; });
}

}  // namespace

void add_bench_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("bench", "Measure speed.");
  app->require_subcommand(1);
  add_bench_attention(*app, context);
  add_bench_train(*app, context);
  add_bench_links(*app, context);
}

}  // namespace dga
