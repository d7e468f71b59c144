#include "train/session.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdlib>
#include <utility>

#include "dist/agreement.h"
#include "dist/together.h"
#include "eval/run_model.h"
#include "run/build_info.h"
#include "run/run_folder.h"
#include "tensor/device.h"
#include "tensor/parallel.h"
#include "train/config_difference.h"
#include "train/device_peak.h"
#include "train/run_facts.h"
#include "train/trainer.h"
#include "util/folder_lock.h"
#include "util/log.h"
#include "util/signals.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

void set_up_torch(const RunConfig& config, const Communicator& ranks) {
  set_math_threads(config.parallel.threads, ranks.local_world_size());
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

std::unique_ptr<Loader> make_loader(const LoadedRun& run, const std::shared_ptr<const Tokenizer>& tokenizer,
                                    const Communicator& ranks) {
  LoaderOptions options;
  options.seed = static_cast<uint64_t>(run.config.run.seed);
  options.global_batch_size = run.config.train.global_batch_size;
  options.rows = options.global_batch_size / ranks.world_size();
  options.first_row = ranks.rank() * options.rows;
  options.vocab_size = run.model.vocab_size;
  return std::make_unique<Loader>(run.config.data, tokenizer, options);
}

/// The first collective connects the ranks, which may fail: better here than in a step.
void connect(Communicator& ranks, at::Device device) {
  if (ranks.world_size() > 1) ranks.all_reduce(at::zeros({1}, device), Reduction::sum)->wait();
}

void log_start(const LoadedRun& run, const Trainer& trainer, const Communicator& ranks) {
  const BuildInfo& build = build_info();
  const Llama& model = trainer.model();
  log::info("dga ", build.version, " (", build.commit, "), ", build.compiler, ", ", build.build_type,
            build.cuda ? ", CUDA" : ", no CUDA", "; on ", device_name(model.device()), ", ", at::get_num_threads(),
            " threads",
            ranks.world_size() == 1
                ? ""
                : str("; ", ranks.world_size(), " ranks, ", ranks.local_world_size(), " on this host"));
  if (ranks.is_first()) {
    for (const std::string& warning : run.warnings) log::warning(warning);
  }
  const int64_t row_tokens = run.config.data.context_length, rows = run.config.train.global_batch_size;
  log::info(run.model.parameter_count(), " parameters, ", trainer.trainable_count(), " of them trained; ",
            rows * row_tokens, " tokens a step (", rows, " rows of ", row_tokens, "); ",
            flops_per_token(run.model, model.visible_pairs_per_token(row_tokens)), " FLOPs a token");
}

}  // namespace

void check_batch(const TrainConfig& train, int64_t ranks) {
  const int64_t unit = ranks * train.micro_batch_size, rows = train.global_batch_size;
  if (rows % unit == 0) return;
  const int64_t below = rows / unit * unit;
  fail(ExitCode::config, "train.global_batch_size: is ", rows, "; ", ranks, " ranks with train.micro_batch_size ",
       train.micro_batch_size, " need a multiple of ", unit, ", such as ", below == 0 ? "" : str(below, " or "),
       below + unit);
}

std::optional<CheckpointFolder> find_checkpoint(const RunConfig& config, Communicator& ranks) {
  const fs::path root = config.run.path() / "checkpoints";
  run_on_first(ranks, "find_checkpoint/clean_up", [&] { clean_up_leftovers(root); });
  std::optional<CheckpointFolder> newest = newest_complete_checkpoint(root, ranks, "find_checkpoint");
  DGA_CHECK_INPUT(newest || list_checkpoints(root).empty(), "no checkpoint in ", root.string(),
                  " is complete; remove them to train from the beginning");
  return newest;
}

TrainerParts assemble(const LoadedRun& run, std::optional<CheckpointFolder> resume_from, Communicator& ranks) {
  set_up_torch(run.config, ranks);
  TrainerParts parts;
  parts.run_folder = run.config.run.path();
  parts.tokenizer = load_run_tokenizer(run.config);
  parts.loader = make_loader(run, parts.tokenizer, ranks);
  const at::Device device = select_device(config::name_of(run.config.run.device), ranks.local_rank());
  connect(ranks, device);
  parts.model = make_model(run, device);
  parts.resume_from = std::move(resume_from);
  return parts;
}

void agree(const LoadedRun& run, Communicator& ranks) {
  run_on_first(ranks, "train/batch", [&] { check_batch(run.config.train, ranks.world_size()); });
  ranks.set_time_limit(std::chrono::seconds(run.config.parallel.timeout_seconds));
  if (ranks.world_size() == 1) return;
  require_agreement(ranks, run_facts(run, load_run_tokenizer(run.config).get()));
}

ExitCode train(const LoadedRun& run, const std::vector<std::string>& command_line, Start start, Communicator& ranks) {
  install_stop_signals();
  log::set_level(run.config.log.level);
  agree(run, ranks);
  const fs::path folder = run.config.run.path();
  std::optional<FolderLock> lock;
  run_on_first(ranks, "train/lock",
               [&] { lock.emplace(folder, str("run.folder: another process is training in ", folder.string())); });
  if (ranks.world_size() > 1) require_shared_folder(ranks, folder);

  std::optional<CheckpointFolder> from;
  std::vector<ConfigChange> changes;
  if (start == Start::resume) from = find_checkpoint(run.config, ranks);
  run_on_first(ranks, "train/folder", [&] {
    // Before the run folder is touched, since this may refuse.
    if (from) changes = check_resumable(read_training_state(from->path).config, run.config);
    create_run_folder(run, command_line, start == Start::resume ? RunStart::resume : RunStart::fresh);
    log::add_file(folder / "train.log");
  });

  Trainer trainer(run, assemble(run, from, ranks), ranks);
  log_start(run, trainer, ranks);
  for (const ConfigChange& change : changes) {
    log::info("changed since the checkpoint: ", change.path, " was ", change.before, ", is now ", change.after);
  }
  log::info(from ? str("going on from ", from->path.string()) : "starting at step 1", "; run folder ", folder.string());
  // Before the trainer goes, which may wait for a checkpoint that other ranks write too.
  const ExitCode code = report_failures(ranks, [&] { return trainer.run(); });
  if (code == ExitCode::ok) log::info("finished at step ", trainer.state().step);
  return code;
}

}  // namespace dga
