#include "train/training_state.h"

#include <ATen/ATen.h>

#include <set>

#include "checkpoint/state_files.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr const char* kStateName = "state.json";

/// A copy in host memory of the numbers of `ranges`, or with a `unit` of those that stand for so many each. The others
/// are neither set nor, as far as the system gives memory when it is touched, held.
at::Tensor copy_ranges(const at::Tensor& live, const std::vector<FlatRange>& ranges, int64_t unit = 1) {
  if (!live.defined()) return live;
  const at::Tensor copy = at::empty(live.sizes(), live.options().device(at::kCPU).pinned_memory(false));
  for (const FlatRange& range : ranges) {
    const int64_t begin = range.begin / unit, end = (range.end + unit - 1) / unit;
    copy.slice(0, begin, end).copy_(live.slice(0, begin, end));
  }
  return copy;
}

/// A copy in host memory of what the checkpoint gets from this rank of the weights that are trained, and its moments.
OptimizerState copy_state(const AdamW& optimizer, const std::set<std::string>& written) {
  const OptimizerState& live = optimizer.state();
  std::map<std::string, int64_t> begins;
  std::vector<FlatRange> weights, owned;
  for (const FlatSlot& slot : optimizer.layout().slots) {
    begins[slot.name] = slot.begin;
    if (written.contains(slot.name)) weights.push_back({slot.begin, slot.begin + slot.count});
  }
  for (const StatePiece& piece : optimizer.owned_pieces(live)) {
    const int64_t begin = begins.at(piece.parameter) + piece.first;
    owned.push_back({begin, begin + piece.count});
  }
  weights.insert(weights.end(), owned.begin(), owned.end());
  OptimizerState copy = live;
  copy.weight = copy_ranges(live.weight, weights);
  // Where the state is sharded, all of it is owned; else it has the places of the flat space.
  const int64_t held = live.exp_avg.numbers.numel();
  if (held != optimizer.layout().size) owned = {{0, held}};
  copy.weight_low = copy_ranges(live.weight_low, owned);
  for (StoredMoment* moment : {&copy.exp_avg, &copy.exp_avg_sq}) {
    moment->numbers = copy_ranges(moment->numbers, owned);
    moment->scales = copy_ranges(moment->scales, owned, kMomentBlock);
  }
  return copy;
}

/// The model's weights as the checkpoint gets them: copies of those that this rank writes, trained ones as part of the
/// optimizer's copy.
std::vector<NamedParameter> copy_weights(const Llama& model, const OptimizerState& copy, const FlatLayout& layout,
                                         const std::set<std::string>& written) {
  std::map<std::string, at::Tensor> trained;
  for (const FlatSlot& slot : layout.slots) trained[slot.name] = slot.view_in(copy.weight);
  std::vector<NamedParameter> weights = model.parameters();
  for (NamedParameter& parameter : weights) {
    if (!written.contains(parameter.name)) continue;
    const auto found = trained.find(parameter.name);
    const bool copied = found != trained.end();
    parameter.value = copied ? found->second : parameter.value.detach().to(at::kCPU).clone();
  }
  return weights;
}

/// The state that this rank owns. Scales have one number for each block of the parameter's.
std::vector<TensorPiece> state_pieces(const AdamW& optimizer, const OptimizerState& state) {
  std::vector<TensorPiece> pieces;
  for (const StatePiece& piece : optimizer.owned_pieces(state)) {
    const int64_t blocks = (c10::multiply_integers(piece.shape) + kMomentBlock - 1) / kMomentBlock;
    for (const auto& [name, numbers] : piece.tensors) {
      const bool of_blocks = name.ends_with("_scale." + piece.parameter);
      pieces.push_back({name, of_blocks ? std::vector<int64_t>{blocks} : piece.shape,
                        of_blocks ? piece.first / kMomentBlock : piece.first, numbers});
    }
  }
  return pieces;
}

}  // namespace

nlohmann::json to_json(const TrainingState& state) {
  return {{"step", state.step},
          {"tokens", state.tokens},
          {"optimizer_updates", state.optimizer_updates},
          {"metrics_bytes", state.metrics_bytes},
          {"seed", state.seed},
          {"outliers", {{"norms", state.outliers.norms}, {"skipped", state.outliers.skipped}}},
          {"loader", state.loader},
          {"config_hash", state.config_hash},
          {"config", state.config}};
}

TrainingState read_training_state(const fs::path& checkpoint) {
  const fs::path path = checkpoint / kStateName;
  TrainingState state;
  try {
    const nlohmann::json json = nlohmann::json::parse(read_file(path));
    json.at("step").get_to(state.step);
    json.at("tokens").get_to(state.tokens);
    json.at("optimizer_updates").get_to(state.optimizer_updates);
    json.at("metrics_bytes").get_to(state.metrics_bytes);
    json.at("seed").get_to(state.seed);
    json.at("outliers").at("norms").get_to(state.outliers.norms);
    json.at("outliers").at("skipped").get_to(state.outliers.skipped);
    state.loader = json.at("loader");
    json.at("config_hash").get_to(state.config_hash);
    json.at("config").get_to(state.config);
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::input, path.string(), " is not the state of a run: ", error.what());
  }
  return state;
}

CheckpointContent make_checkpoint(const TrainingState& state, const Llama& model, const HfExport& description,
                                  const AdamW& optimizer, Snapshot snapshot, const Share& rank) {
  std::vector<NamedParameter> weights = model.parameters();
  OptimizerState tensors = optimizer.state();
  if (snapshot == Snapshot::copied) {
    const std::set<std::string> written = parameters_written(weights, description, rank);
    tensors = copy_state(optimizer, written);
    weights = copy_weights(model, tensors, optimizer.layout(), written);
  }

  CheckpointContent content;
  content.step = state.step;
  content.parts = {
      [weights, description, rank](const fs::path& folder) { write_hf_files(folder, weights, description, rank); },
      [pieces = state_pieces(optimizer, tensors), rank](const fs::path& folder) {
        write_state_file(folder, rank, pieces);
      }};
  if (rank.index == 0) {
    content.parts.emplace_back([text = to_json(state).dump(2) + "\n"](const fs::path& folder) {
      OutputFile file(folder / kStateName);
      file.write(text);
      file.close_synced();
    });
  }
  content.on_stage = [step = state.step](std::string_view stage) {
    log::debug("checkpoint of step ", step, ": ", stage);
  };
  return content;
}

void restore_tensors(const fs::path& checkpoint, const TrainingState& state, const Llama& model, AdamW& optimizer) {
  load_weights(checkpoint, model.parameters(), model.config().tie_word_embeddings);
  optimizer.restore(open_state_files(checkpoint), state.optimizer_updates);
}

}  // namespace dga
