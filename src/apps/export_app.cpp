#include <CLI/CLI.hpp>
#include <filesystem>

#include "apps/apps.h"
#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "model/attention_record.h"
#include "model/hf_config.h"
#include "model/weights_io.h"
#include "tensor/dtype.h"
#include "util/log.h"

namespace dga {
namespace {

constexpr int64_t kCheckedTokens = 256;
constexpr double kLogitTolerance = 1e-4;

struct ExportOptions {
  std::string source;
  std::string output;
  std::string dtype;
  int64_t step = -1;
  uint64_t max_shard_bytes = 5'000'000'000;
  bool check = false;
};

/// The step folder that the command line means: a checkpoint itself, or one of a run.
std::filesystem::path find_checkpoint(const ExportOptions& options) {
  const std::filesystem::path source = options.source;
  DGA_CHECK_INPUT(std::filesystem::is_directory(source), options.source, ": no such folder");
  if (std::filesystem::exists(source / "state.json")) {
    if (options.step >= 0)
      fail(ExitCode::usage, "--step chooses among a run's checkpoints; ", options.source, " is one");
    verify_checkpoint({read_manifest(source).step, source});
    return source;
  }
  DGA_CHECK_INPUT(!std::filesystem::exists(source / "config.json"), options.source,
                  ": is a Hugging Face folder already; dga import converts it");
  const std::filesystem::path root = source / "checkpoints";
  if (options.step < 0) {
    const std::optional<CheckpointFolder> newest = newest_complete_checkpoint(root);
    DGA_CHECK_INPUT(newest.has_value(), options.source, ": neither a checkpoint nor a run folder with one");
    return newest->path;
  }
  std::string present;
  for (const CheckpointFolder& checkpoint : list_checkpoints(root)) {
    if (checkpoint.step == options.step) {
      verify_checkpoint(checkpoint);
      return checkpoint.path;
    }
    present += (present.empty() ? "" : ", ") + std::to_string(checkpoint.step);
  }
  fail(ExitCode::input, options.source, ": no checkpoint of step ", options.step, "; there are ",
       present.empty() ? "none" : present);
}

/// Reloads what was written, as any reader would, and compares it with the checkpoint in memory.
void check_export(const Llama& model, const std::filesystem::path& output) {
  const LlamaConfig config = read_hf_config(output);
  const AttentionConfig attention = recorded_attention(output).value_or(AttentionConfig{});
  const Llama reloaded = Llama::load(output, config, attention, /*seed=*/0, model.dtype(), model.device());
  const double difference = largest_logit_difference(model, reloaded, kCheckedTokens);
  DGA_CHECK(difference <= kLogitTolerance, output.string(), ": check failed: a logit differs by ", difference,
            " from the checkpoint's");
  log::info("check: over ", kCheckedTokens, " random tokens the largest difference of a logit is ", difference);
}

ExitCode run_export(const ExportOptions& options) {
  const std::filesystem::path checkpoint = find_checkpoint(options);
  const LlamaConfig config = read_hf_config(checkpoint);
  const std::optional<AttentionConfig> attention = recorded_attention(checkpoint);
  const at::ScalarType dtype = options.dtype.empty() ? stored_dtype(checkpoint) : dtype_of_name(options.dtype);
  const Llama model =
      Llama::load(checkpoint, config, attention.value_or(AttentionConfig{}), /*seed=*/0, dtype, at::kCPU);
  HfExport description;
  description.config = config;
  description.attention = attention;
  description.dtype = dtype;
  description.max_shard_bytes = static_cast<int64_t>(options.max_shard_bytes);
  description.tokenizer_source = checkpoint;
  save_hf(options.output, model.parameters(), description);
  log::info("exported ", checkpoint.string(), " to ", options.output, ": ", config.parameter_count(), " parameters, ",
            hf_dtype_name(dtype), std::filesystem::exists(checkpoint / "tokenizer.model") ? "" : ", no tokenizer");
  if (options.check) check_export(model, options.output);
  return ExitCode::ok;
}

}  // namespace

void add_export_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("export", "Write a checkpoint as a Hugging Face folder.");
  auto options = std::make_shared<ExportOptions>();
  app->add_option("source", options->source, "run folder (its newest complete checkpoint) or checkpoint (step-N)")
      ->type_name("RUN_OR_CHECKPOINT")
      ->required();
  app->add_option("--output", options->output, "folder to write; must not exist, or be empty")->required();
  app->add_option("--step", options->step, "which checkpoint of the run; default: the newest complete one")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--dtype", options->dtype, "type of the weights; default: as the checkpoint stores them")
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  app->add_option("--max-shard-size", options->max_shard_bytes,
                  "weights are split into files of at most this size, as 5GB")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_flag("--check", options->check, "load what was written and compare its logits with the checkpoint's");
  app->footer(
      "transformers loads the folder; the attention settings stand in config.json under dga_attention, and dga takes "
      "them as defaults. NTK-aware RoPE scaling is written as the rope_theta it amounts to.");
  app->callback([options, &context] { context.action = [options] { return run_export(*options); }; });
}

}  // namespace dga
