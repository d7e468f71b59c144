#pragma once

#include <optional>
#include <string>
#include <vector>

#include "run/run_config.h"
#include "train/trainer.h"

namespace dga {

/// Throws a config error unless every rank gets the same number of whole micro-batches.
void check_batch(const TrainConfig& train, int64_t ranks);

/// Checks, before anything is made, that the ranks can train together: that the batch divides among them, and that they
/// have the same config, data and build. Throws a config error on all of them.
void agree(const LoadedRun& run, Communicator& ranks);

/// Device, the rank's loader and the model of a run, and threads and determinism of the process as the config says.
/// Connects the ranks.
TrainerParts assemble(const LoadedRun& run, std::optional<CheckpointFolder> resume_from, Communicator& ranks);

/// The newest complete checkpoint of the run folder, leftovers cleaned up; nothing where none was saved yet. The ranks
/// call it together and get the same. Throws an input error where there are some and none is complete, or where the
/// ranks do not see the same ones.
std::optional<CheckpointFolder> find_checkpoint(const RunConfig& config, Communicator& ranks);

enum class Start { fresh, resume };

/// Trains as the config says, from the beginning or from the newest complete checkpoint of the run folder (from the
/// beginning if there is none yet): `dga train`. Refuses a fresh start in a folder that holds a run, and a folder that
/// another process is training in. `command_line` goes into the run's provenance.
ExitCode train(const LoadedRun& run, const std::vector<std::string>& command_line, Start start, Communicator& ranks);

}  // namespace dga
