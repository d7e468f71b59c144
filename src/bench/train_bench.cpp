#include "bench/train_bench.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "train/device_peak.h"
#include "train/session.h"
#include "train/trainer.h"
#include "util/error.h"
#include "util/timer.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

/// The run folder of a bench, removed with the bench.
class TemporaryRunFolder {
 public:
  TemporaryRunFolder() {
    std::string pattern = (fs::temp_directory_path() / "dga_bench_XXXXXX").string();
    DGA_CHECK(mkdtemp(pattern.data()) != nullptr, "cannot make a folder in ", fs::temp_directory_path().string());
    path_ = pattern;
  }
  TemporaryRunFolder(const TemporaryRunFolder&) = delete;
  TemporaryRunFolder& operator=(const TemporaryRunFolder&) = delete;
  ~TemporaryRunFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Steps with the host one behind the device, as Trainer::run() has it.
std::vector<StepRecord> run_steps(Trainer& trainer, int64_t count) {
  std::vector<StepRecord> records;
  std::optional<Trainer::PendingStep> before;
  for (int64_t i = 0; i < count; ++i) {
    Trainer::PendingStep step = trainer.launch_step().value();
    if (before) records.push_back(trainer.complete(std::move(*before)));
    before = std::move(step);
  }
  if (before) records.push_back(trainer.complete(std::move(*before)));
  return records;
}

std::string attention_name(const AttentionConfig& attention) {
  if (attention.kind == AttentionKind::full) return "full";
  std::string name = config::name_of(attention.kind) + ", " + config::name_of(attention.selection);
  if (attention.selection != Selection::causal) name += str(", window ", attention.local_window);
  return name;
}

template <class... T>
std::string format(const char* pattern, T... values) {
  char text[256];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

double gibibytes(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

double total_seconds(const std::vector<StepRecord>& records) {
  return std::accumulate(records.begin(), records.end(), 0.0,
                         [](double sum, const StepRecord& record) { return sum + record.seconds; });
}

double mean_phase(const std::vector<StepRecord>& records, StepPhase phase) {
  double sum = 0;
  for (const StepRecord& record : records) sum += record.phase_seconds[static_cast<size_t>(phase)];
  return sum / static_cast<double>(records.size());
}

double mean_launch(const std::vector<StepRecord>& records) {
  double sum = 0;
  for (const StepRecord& record : records) sum += record.launch_seconds;
  return sum / static_cast<double>(records.size());
}

using NamedPhase = std::pair<StepPhase, const char*>;

/// The phases that a step has: one rank reduces nothing.
std::vector<NamedPhase> phases_of(const TrainBenchResult& result) {
  std::vector<NamedPhase> phases = {
      {StepPhase::data, "data"}, {StepPhase::forward, "forward"}, {StepPhase::backward, "backward"}};
  if (result.ranks > 1) phases.emplace_back(StepPhase::reduce, "reduce");
  phases.emplace_back(StepPhase::optimizer, "optimizer");
  return phases;
}

std::string ranks_line(const TrainBenchResult& r) {
  return str(r.ranks, " ranks, shard ", config::name_of(r.parallel.shard), ", gradients summed in ",
             config::name_of(r.parallel.reduce), ", buckets of ", r.parallel.bucket_mib, " MiB, ",
             format("%.2f GiB", gibibytes(r.records.back().reduced_bytes)), " reduced a step and rank; reduce is what ",
             "backward does not hide\n");
}

std::string profile_table(const StepProfile& profile) {
  std::string text = format("\nprofiled step: %.1f ms, idle %.1f ms (%.1f %%)\n", profile.span_ms, profile.idle_ms,
                            100 * profile.idle_ms / profile.span_ms);
  text += "\n| what | calls | ms | share |\n| --- | --- | --- | --- |\n";
  const auto row = [&](const StepProfile::Row& r) {
    text += str("| ", r.name.substr(0, 90), " | ", r.calls, format(" | %.2f", r.ms),
                format(" | %.1f %% |\n", 100 * r.ms / profile.span_ms));
  };
  for (const StepProfile::Row& r : profile.classes) row(r);
  constexpr size_t kShown = 25;
  for (size_t i = 0; i < std::min(kShown, profile.kernels.size()); ++i) row(profile.kernels[i]);
  constexpr size_t kWaits = 5;
  const size_t waits = std::min(kWaits, profile.waits.size());
  if (waits > 0)
    text += "\nwaits for other streams, before:\n\n| what | calls | ms | share |\n| --- | --- | --- | --- |\n";
  for (size_t i = 0; i < waits; ++i) row(profile.waits[i]);
  return text;
}

}  // namespace

double TrainBenchResult::median_seconds() const {
  std::vector<double> seconds;
  for (const StepRecord& record : records) seconds.push_back(record.seconds);
  std::ranges::sort(seconds);
  const size_t middle = seconds.size() / 2;
  return seconds.size() % 2 == 1 ? seconds[middle] : (seconds[middle - 1] + seconds[middle]) / 2;
}

double TrainBenchResult::tokens_per_second() const {
  double tokens = 0;
  for (const StepRecord& record : records) tokens += static_cast<double>(record.step_tokens);
  return tokens / total_seconds(records);
}

std::optional<double> TrainBenchResult::mfu() const {
  if (!peak_flops) return std::nullopt;
  double flops = 0;
  for (const StepRecord& record : records) flops += record.flops;
  return flops / total_seconds(records) / (*peak_flops * static_cast<double>(ranks));
}

TrainBenchResult bench_train(LoadedRun run, const TrainBenchOptions& options, Communicator& ranks) {
  const Timer timer;
  const TemporaryRunFolder folder;
  RunConfig& config = run.config;
  config.run.folder = folder.path().string();
  config.eval.every_steps = 0;
  config.train.steps = options.warmup_steps + options.steps + (options.profile ? 1 : 0);
  config.schedule.warmup_steps = std::min(config.schedule.warmup_steps, config.train.steps);
  agree(run, ranks);
  Trainer trainer(run, assemble(run, std::nullopt, ranks), ranks);

  TrainBenchResult result;
  const at::Device device = trainer.model().device();
  result.card = device_name(device);
  result.attention = attention_name(config.attention);
  result.config_hash = run.hash;
  result.ranks = ranks.world_size();
  result.parallel = config.parallel;
  result.context_length = config.data.context_length;
  result.global_batch_size = config.train.global_batch_size;
  result.micro_batch_size = config.train.micro_batch_size;
  result.parameters = run.model.parameter_count();
  if (config.train.dtype == Precision::bf16) result.peak_flops = peak_flops(result.card);
  result.setup_seconds = timer.seconds();
  run_steps(trainer, options.warmup_steps);
  result.records = run_steps(trainer, options.steps);
  result.memory_bytes = result.records.back().memory_bytes;
  const std::optional<DeviceRates> rates = device_rates(result.card);
  if (rates && prediction_obstacle(config, run.model).empty()) {
    result.predicted_memory = predict_memory(config, run.model, result.ranks);
    result.predicted_time = predict_time(config, run.model, *rates, result.ranks);
  }
  if (options.profile) result.profile = profile_step([&] { trainer.train_step(); });
  return result;
}

std::string train_bench_text(const TrainBenchResult& r) {
  std::string text = str(r.ranks == 1 ? "" : str(r.ranks, " x "), r.card, ", ", r.parameters, " parameters, attention ",
                         r.attention, ", ", r.global_batch_size, " x ", r.context_length,
                         " tokens a step in micro-batches of ", r.micro_batch_size, "\n");
  text +=
      format("step %.4f s (median of %zu)  %.0f tokens/s", r.median_seconds(), r.records.size(), r.tokens_per_second());
  if (const std::optional<double> share = r.mfu()) text += format("  mfu %.1f %%", 100 * *share);
  text += format("  loss %.4f to %.4f\n", r.records.front().loss, r.records.back().loss);
  if (r.ranks > 1) text += ranks_line(r);
  for (const auto& [phase, name] : phases_of(r))
    text += format("%s %.1f ms  ", name, 1e3 * mean_phase(r.records, phase));
  text += format("(host: %.1f ms a step; set-up %.1f s)\n", 1e3 * mean_launch(r.records), r.setup_seconds);
  text += format("peak memory %.2f GiB", gibibytes(r.memory_bytes));
  if (r.predicted_memory) {
    const double predicted = gibibytes(r.predicted_memory->total());
    text += format(", predicted %.2f (%+.1f %%)", predicted, 100 * (predicted / gibibytes(r.memory_bytes) - 1));
  }
  if (r.predicted_time) {
    const double predicted = r.predicted_time->total();
    text += format("; step predicted %.4f s (%+.1f %%)", predicted, 100 * (predicted / r.median_seconds() - 1));
  }
  text += "\n";
  if (r.profile && !r.profile->kernels.empty()) text += profile_table(*r.profile);
  return text;
}

std::string train_bench_json(const TrainBenchResult& r, const std::string& commit) {
  nlohmann::json json = {{"card", r.card},
                         {"ranks", r.ranks},
                         {"commit", commit},
                         {"config_hash", r.config_hash},
                         {"parameters", r.parameters},
                         {"attention", r.attention},
                         {"context_length", r.context_length},
                         {"global_batch_size", r.global_batch_size},
                         {"micro_batch_size", r.micro_batch_size},
                         {"steps", r.records.size()},
                         {"step_s", r.median_seconds()},
                         {"tokens_per_s", r.tokens_per_second()},
                         {"host_s", mean_launch(r.records)},
                         {"peak_memory_bytes", r.memory_bytes}};
  for (const auto& [phase, name] : phases_of(r)) json["phases_s"][name] = mean_phase(r.records, phase);
  if (r.ranks > 1) {
    json["shard"] = config::name_of(r.parallel.shard);
    json["reduce"] = config::name_of(r.parallel.reduce);
    json["bucket_mib"] = r.parallel.bucket_mib;
    json["reduced_bytes"] = r.records.back().reduced_bytes;
  }
  for (const StepRecord& record : r.records) json["losses"].push_back(record.loss);
  if (const std::optional<double> share = r.mfu()) json["mfu"] = *share;
  if (const auto& m = r.predicted_memory) {
    json["predicted_memory_bytes"] = {{"total", m->total()},       {"weights", m->weights}, {"gradients", m->gradients},
                                      {"optimizer", m->optimizer}, {"kept", m->kept},       {"working", m->working},
                                      {"slack", m->slack},         {"host", m->host}};
  }
  if (const auto& t = r.predicted_time) {
    json["predicted_s"] = {{"total", t->total()},       {"products", t->products},   {"attention", t->attention},
                           {"pointwise", t->pointwise}, {"optimizer", t->optimizer}, {"host_copies", t->host_copies},
                           {"exchange", t->exchange}};
  }
  if (r.profile) {
    json["profile"] = {{"span_ms", r.profile->span_ms}, {"idle_ms", r.profile->idle_ms}};
    for (const StepProfile::Row& row : r.profile->classes) json["profile"]["classes_ms"][row.name] = row.ms;
    for (const auto& [key, rows] : {std::pair("kernels", &r.profile->kernels), {"waits", &r.profile->waits}}) {
      for (const StepProfile::Row& row : *rows) {
        json["profile"][key].push_back({{"name", row.name}, {"calls", row.calls}, {"ms", row.ms}});
      }
    }
  }
  return json.dump(2) + "\n";
}

}  // namespace dga
