#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>

#include "apps/apps.h"
#include "config/load.h"
#include "kernels/common/device.h"
#include "run/run_config.h"
#include "train/device_peak.h"
#include "train/prediction.h"
#include "train/session.h"

namespace dga {
namespace {

struct ConfigOptions {
  std::string file;
  std::vector<std::string> assignments;
  std::string device;
  int64_t gpus = 1;
  bool reference = false;
};

/// 1234567 as "1,234,567".
std::string grouped(int64_t number) {
  std::string text = std::to_string(number);
  for (auto i = static_cast<int64_t>(text.size()) - 3; i > 0; i -= 3) text.insert(static_cast<size_t>(i), ",");
  return text;
}

std::string rounded(const char* format, double number) {
  char text[64];
  std::snprintf(text, sizeof(text), format, number);
  return text;
}

/// Query-key pairs a token that one head computes, summed over the layers.
struct Pairs {
  double visible = 0;
  double dense = 0;
};

Pairs pairs_per_token(const LoadedRun& run, int64_t length) {
  Pairs pairs;
  for (int64_t layer = 0; layer < run.model.num_hidden_layers; ++layer) {
    const AttentionConfig& attention = run.config.attention;
    pairs.visible += visible_pairs(attention, kind_of_layer(attention, layer), length) / static_cast<double>(length);
    pairs.dense += visible_pairs(attention, AttentionKind::full, length) / static_cast<double>(length);
  }
  return pairs;
}

/// What the settings amount to, as YAML comments below the config.
std::string summary(const LoadedRun& run) {
  const int64_t length = run.config.data.context_length;
  const Pairs pairs = pairs_per_token(run, length);
  const int64_t step_tokens = run.config.train.global_batch_size * length;
  const auto gigaflops = [&](double visible) { return rounded("%.4g", flops_per_token(run.model, visible) / 1e9); };
  const auto per_layer = [&](double sum) {
    return rounded("%.1f", sum / static_cast<double>(run.model.num_hidden_layers));
  };
  const double share = pairs.visible / pairs.dense;
  return str("# config hash            ", run.hash, "\n",                                                           //
             "# run folder             ", run.config.run.path().string(), "\n",                                     //
             "# parameters             ", grouped(run.model.parameter_count()), "\n",                               //
             "# tokens a step          ", grouped(step_tokens), "\n",                                               //
             "# tokens in all          ", grouped(step_tokens * run.config.train.steps), "\n",                      //
             "# pairs a token, layer   ", per_layer(pairs.visible), " visible; ", per_layer(pairs.dense),           //
             " dense causal (", rounded("%.3g", 100 * share), " %), at ", length, " tokens\n",                      //
             "# GFLOP a trained token  ", gigaflops(pairs.visible), " by visible pairs; ", gigaflops(pairs.dense),  //
             " by dense causal pairs\n");
}

std::string gibibytes(int64_t bytes) { return rounded("%.1f", static_cast<double>(bytes) / (1 << 30)); }

std::string memory_line(const PredictedMemory& memory, const DeviceRates& rates) {
  const char* fits = memory.total() <= rates.memory_bytes ? "" : "; DOES NOT FIT";
  const std::string host = memory.host == 0 ? "" : str("; ", gibibytes(memory.host), " pinned on the host");
  return str("# predicted peak GiB     ", gibibytes(memory.total()), " of ", gibibytes(rates.memory_bytes), fits,
             ": weights ", gibibytes(memory.weights), ", gradients ", gibibytes(memory.gradients), ", optimizer ",
             gibibytes(memory.optimizer), ", kept for the backward pass ", gibibytes(memory.kept), ", working memory ",
             gibibytes(memory.working), ", slack ", gibibytes(memory.slack), host, "\n");
}

std::string time_line(const LoadedRun& run, const PredictedTime& time, const std::string& device, int64_t gpus) {
  const int64_t length = run.config.data.context_length;
  const double tokens = static_cast<double>(run.config.train.global_batch_size * length);
  const double flops = tokens * flops_per_token(run.model, pairs_per_token(run, length).visible);
  const std::optional<double> one_peak = peak_flops(device);
  const double peak = one_peak.value_or(0) * static_cast<double>(gpus);
  const auto seconds = [](double value) { return rounded("%.3f", value); };
  return str("# predicted step s       ", seconds(time.total()), ", ",
             grouped(static_cast<int64_t>(tokens / time.total())), " tokens/s",
             peak > 0 ? rounded(", MFU %.1f %%", 100 * flops / time.total() / peak) : "", ": products ",
             seconds(time.products), ", attention ", seconds(time.attention), ", pointwise ", seconds(time.pointwise),
             ", optimizer ", seconds(time.optimizer),
             time.host_copies > 0 ? ", waiting for host memory " + seconds(time.host_copies) : "",
             time.exchange > 0 ? ", waiting for the other GPUs " + seconds(time.exchange) : "", "\n");
}

/// The GPU that predictions are for: the one that is named, this machine's first one, or an H100.
std::string predicted_device(const std::string& named) {
  if (!named.empty()) return named;
  const kernels::DeviceList present = kernels::list_devices();
  return present.devices.empty() ? "H100" : present.devices.front().name;
}

/// The rates at which GPUs exchange gradients and weights, which are not measured.
std::string link_line(const DeviceRates& rates, int64_t gpus) {
  if (gpus == 1) return "";
  return str("# exchange counted at    ", rounded("%.0f", rates.exchange(gpus) / 1e9), " GB/s a GPU, ",
             is_one_host(gpus) ? "NVLink within a host" : "eight adapters of 400 Gbit/s a host", "\n");
}

/// Memory and time of a step, as comments like the summary.
std::string prediction(const LoadedRun& run, const std::string& device, int64_t gpus) {
  const std::string obstacle = prediction_obstacle(run.config, run.model);
  const std::optional<DeviceRates> rates = device_rates(device);
  const std::string count = gpus == 1 ? "one " : str(gpus, " ");
  std::string text = str("# predicted for          ", count, device, gpus == 1 ? "" : ", memory of each", "\n");
  if (!obstacle.empty()) return text + "# no prediction          " + obstacle + "\n";
  if (!rates) return text + "# no prediction          its rates are not known; those of H100 and H200 are\n";
  return text + memory_line(predict_memory(run.config, run.model, gpus), *rates) +
         time_line(run, predict_time(run.config, run.model, *rates, gpus), device, gpus) + link_line(*rates, gpus);
}

ExitCode run_config(const ConfigOptions& options) {
  if (options.reference) {
    RunConfig defaults;
    std::fputs(config::reference([&](config::Fields& f) { defaults.fields(f); }).c_str(), stdout);
    return ExitCode::ok;
  }
  if (options.file.empty()) fail(ExitCode::usage, "config needs a FILE, or --reference; see dga config --help");
  const LoadedRun run = load_run(options.file, options.assignments, RunUse::training);
  check_batch(run.config.train, options.gpus);
  const std::string text = summary(run) + prediction(run, predicted_device(options.device), options.gpus);
  std::fputs((run.resolved_yaml + "\n" + text).c_str(), stdout);
  for (const std::string& warning : run.warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  return ExitCode::ok;
}

}  // namespace

void add_config_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("config", "Check a config and print it with the origin of each value.");
  auto options = std::make_shared<ConfigOptions>();
  app->add_option("file", options->file, "the run's YAML file")->type_name("FILE");
  add_set_option(*app, options->assignments);
  app->add_option("--device", options->device,
                  "the GPU that memory and time are predicted for (H100, H200); this machine's first one, or H100")
      ->type_name("NAME");
  app->add_option("--gpus", options->gpus, "GPUs that share the step, in the prediction")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_flag("--reference", options->reference, "print the reference of all fields as markdown instead");
  app->footer(
      "Prints the resolved config, parameters, tokens a step, FLOPs a token, and the memory and time of a step that "
      "are predicted for one GPU or --gpus of them, and exits; nothing is written.");
  app->callback([options, &context] { context.action = [options] { return run_config(*options); }; });
}

}  // namespace dga
