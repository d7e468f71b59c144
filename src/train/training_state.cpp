#include "train/training_state.h"

#include <ATen/ATen.h>

#include "tensor/tensor_file.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"
#include "util/safetensors.h"

namespace dga {
namespace fs = std::filesystem;
namespace {

constexpr const char* kStateName = "state.json";
constexpr const char* kOptimizerName = "optimizer.safetensors";

/// The model's weights as the checkpoint gets them: trained ones are part of the optimizer's copy.
std::vector<NamedParameter> take_weights(const Llama& model, const OptimizerState& state, const FlatLayout& layout,
                                         Snapshot snapshot) {
  if (snapshot == Snapshot::live) return model.parameters();
  std::map<std::string, at::Tensor> trained;
  for (const FlatSlot& slot : layout.slots) trained[slot.name] = slot.view_in(state.weight);
  std::vector<NamedParameter> weights;
  for (const NamedParameter& parameter : model.parameters()) {
    const auto found = trained.find(parameter.name);
    const bool copied = found != trained.end();
    weights.push_back({parameter.name, copied ? found->second : parameter.value.detach().to(at::kCPU).clone()});
  }
  return weights;
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
                                  const AdamW& optimizer, Snapshot snapshot) {
  const OptimizerState tensors = snapshot == Snapshot::copied ? optimizer.state().copy_to_host() : optimizer.state();
  const std::vector<NamedParameter> weights = take_weights(model, tensors, optimizer.layout(), snapshot);
  std::map<std::string, TensorSource> sources;
  for (const StatePiece& piece : optimizer.owned_pieces(tensors)) {
    sources.insert(piece.tensors.begin(), piece.tensors.end());
  }

  CheckpointContent content;
  content.step = state.step;
  content.parts = {[weights, description](const fs::path& folder) { write_hf_files(folder, weights, description); },
                   [sources](const fs::path& folder) { write_tensors(folder / kOptimizerName, sources); },
                   [text = to_json(state).dump(2) + "\n"](const fs::path& folder) {
                     OutputFile file(folder / kStateName);
                     file.write(text);
                     file.close_synced();
                   }};
  content.on_stage = [step = state.step](std::string_view stage) {
    log::debug("checkpoint of step ", step, ": ", stage);
  };
  return content;
}

void restore_tensors(const fs::path& checkpoint, const TrainingState& state, const Llama& model, AdamW& optimizer) {
  load_weights(checkpoint, model.parameters(), model.config().tie_word_embeddings);
  const SafetensorsFile file(checkpoint / kOptimizerName);  // mapped, not read as a whole
  NamedTensors views;
  for (const auto& [name, view] : file.tensors()) views.emplace(name, tensor_of_view(view));
  optimizer.restore(as_saved(views), state.optimizer_updates);
}

}  // namespace dga
