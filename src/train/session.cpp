#include "train/session.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdlib>
#include <utility>

#include "dist/together.h"
#include "eval/run_model.h"
#include "run/build_info.h"
#include "run/run_folder.h"
#include "tensor/device.h"
#include "train/config_difference.h"
#include "train/device_peak.h"
#include "train/trainer.h"
#include "util/folder_lock.h"
#include "util/log.h"
#include "util/signals.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

void set_up_torch(const RunConfig& config) {
  if (config.parallel.threads > 0) at::set_num_threads(static_cast<int>(config.parallel.threads));
  if (!config.train.deterministic) return;
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);  // cuBLAS reads it when it starts
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
  at::globalContext().setBenchmarkCuDNN(false);
}

std::unique_ptr<Llama> make_model(const LoadedRun& run, at::Device device) {
  const RunConfig& config = run.config;
  const at::ScalarType dtype = config.train.dtype == Precision::bf16 ? at::kBFloat16 : at::kFloat;
  const auto seed = static_cast<uint64_t>(config.run.seed);
  if (config.model.path.empty()) return std::make_unique<Llama>(run.model, config.attention, seed, dtype, device);
  return std::make_unique<Llama>(Llama::load(config.model.path, run.model, config.attention, seed, dtype, device));
}

std::unique_ptr<Loader> make_loader(const LoadedRun& run, const std::shared_ptr<const Tokenizer>& tokenizer) {
  LoaderOptions options;
  options.seed = static_cast<uint64_t>(run.config.run.seed);
  options.global_batch_size = run.config.train.global_batch_size;
  options.rows = options.global_batch_size;
  options.vocab_size = run.model.vocab_size;
  return std::make_unique<Loader>(run.config.data, tokenizer, options);
}

void log_start(const LoadedRun& run, const Trainer& trainer) {
  const BuildInfo& build = build_info();
  const Llama& model = trainer.model();
  log::info("dga ", build.version, " (", build.commit, "), ", build.compiler, ", ", build.build_type,
            build.cuda ? ", CUDA" : ", no CUDA", "; on ", device_name(model.device()), ", ", at::get_num_threads(),
            " threads");
  for (const std::string& warning : run.warnings) log::warning(warning);
  const int64_t row_tokens = run.config.data.context_length, rows = run.config.train.global_batch_size;
  log::info(run.model.parameter_count(), " parameters, ", trainer.trainable_count(), " of them trained; ",
            rows * row_tokens, " tokens a step (", rows, " rows of ", row_tokens, "); ",
            flops_per_token(run.model, model.visible_pairs_per_token(row_tokens)), " FLOPs a token");
}

}  // namespace

std::optional<CheckpointFolder> find_checkpoint(const RunConfig& config, Communicator& ranks) {
  const fs::path root = config.run.path() / "checkpoints";
  run_on_first(ranks, "find_checkpoint/clean_up", [&] { clean_up_leftovers(root); });
  std::optional<CheckpointFolder> newest = newest_complete_checkpoint(root, ranks, "find_checkpoint");
  DGA_CHECK_INPUT(newest || list_checkpoints(root).empty(), "no checkpoint in ", root.string(),
                  " is complete; remove them to train from the beginning");
  return newest;
}

TrainerParts assemble(const LoadedRun& run, std::optional<CheckpointFolder> resume_from, Communicator& ranks) {
  set_up_torch(run.config);
  TrainerParts parts;
  parts.ranks = &ranks;
  parts.run_folder = run.config.run.path();
  parts.tokenizer = load_run_tokenizer(run.config);
  parts.loader = make_loader(run, parts.tokenizer);
  parts.model = make_model(run, select_device(config::name_of(run.config.run.device)));
  parts.resume_from = std::move(resume_from);
  return parts;
}

ExitCode train(const LoadedRun& run, const std::vector<std::string>& command_line, Start start, Communicator& ranks) {
  install_stop_signals();
  log::set_level(run.config.log.level);
  const fs::path folder = run.config.run.path();
  const FolderLock lock(folder, str("run.folder: another process is training in ", folder.string()));

  std::optional<CheckpointFolder> from;
  std::vector<ConfigChange> changes;
  if (start == Start::resume) from = find_checkpoint(run.config, ranks);
  // Before the run folder is touched, since this may refuse.
  if (from) changes = check_resumable(read_training_state(from->path).config, run.config);
  create_run_folder(run, command_line, start == Start::resume ? RunStart::resume : RunStart::fresh);
  log::add_file(folder / "train.log");

  Trainer trainer(run, assemble(run, from, ranks));
  log_start(run, trainer);
  for (const ConfigChange& change : changes) {
    log::info("changed since the checkpoint: ", change.path, " was ", change.before, ", is now ", change.after);
  }
  log::info(from ? str("going on from ", from->path.string()) : "starting at step 1", "; run folder ", folder.string());
  const ExitCode code = trainer.run();
  if (code == ExitCode::ok) log::info("finished at step ", trainer.state().step);
  return code;
}

}  // namespace dga
