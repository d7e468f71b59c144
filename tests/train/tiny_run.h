#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "run/run_config.h"
#include "support/temp_folder.h"
#include "train/session.h"
#include "train/trainer.h"
#include "util/log.h"
#include "util/random.h"

namespace dga {

/// A run of a model with a few thousand weights on documents of 20 to 200 tokens out of 64, in a folder of its own.
class TinyRun {
 public:
  static constexpr int64_t kContext = 32;

  TinyRun() {
    log::set_level(log::Level::warning);
    write_bin("first.u16", 1, 6000);
    write_bin("second.u16", 2, 4000);
    write_bin("held_out.u16", 3, 600);
    folder_.write("run.yaml", R"(
run: {device: cpu}
model: {vocab_size: 64, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 4,
        num_key_value_heads: 2, initializer_range: 0.2}
data: {context_length: 32, shuffle_tokens: 1000, bos: false, eos: false}
optimizer: {learning_rate: 0.01}
schedule: {kind: cosine, warmup_steps: 2}
train: {steps: 8, global_batch_size: 4, micro_batch_size: 4, loss_chunk_tokens: 20}
checkpoint: {every_steps: 0}
parallel: {threads: 1}
log: {level: warning}
)");
  }

  const std::filesystem::path& path() const { return folder_.path(); }
  std::filesystem::path run_folder() const { return path() / "run"; }
  std::filesystem::path config_file() const { return path() / "run.yaml"; }

  /// --set assignments of this run; `extra` come last.
  std::vector<std::string> assignments(const std::vector<std::string>& extra = {}) const {
    const std::string files = (path() / "first.u16").string() + "," + (path() / "second.u16").string();
    std::vector<std::string> all = {"run.folder=" + run_folder().string(), "data.cache=" + (path() / "cache").string(),
                                    "data.sources=[{name: tiny, format: u16, paths: [" + files + "], separator: 0}]"};
    all.insert(all.end(), extra.begin(), extra.end());
    return all;
  }
  std::string held_out_source() const {
    return "[{name: held_out, format: u16, paths: [" + (path() / "held_out.u16").string() + "], separator: 0}]";
  }

  LoadedRun load(const std::vector<std::string>& extra = {}) const {
    return load_run(config_file(), assignments(extra), RunUse::training);
  }
  /// A trainer in the run folder, continuing its newest checkpoint if there is one.
  std::unique_ptr<Trainer> trainer(const std::vector<std::string>& extra = {}) const { return trainer(extra, *alone_); }
  std::unique_ptr<Trainer> trainer(const std::vector<std::string>& extra, Communicator& ranks) const {
    const LoadedRun run = load(extra);
    std::filesystem::create_directories(run_folder());
    return std::make_unique<Trainer>(run, assemble(run, find_checkpoint(run.config, ranks), ranks), ranks);
  }

  std::vector<nlohmann::json> metrics() const {
    std::vector<nlohmann::json> lines;
    std::ifstream in(run_folder() / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

 private:
  /// Documents whose tokens follow each other by a noisy rule, so that there is something to learn.
  void write_bin(const std::string& name, uint64_t key, int64_t tokens) const {
    const CounterRng rng({7, key});
    std::vector<uint16_t> out;
    for (uint64_t counter = 0; static_cast<int64_t>(out.size()) < tokens; ++counter) {
      const uint64_t draw = rng.bits(counter);
      const bool document_ends = draw % 100 < 2 && !out.empty() && out.back() != 0;
      const bool by_rule = (draw >> 8) % 4 != 0;
      const uint64_t next = by_rule && !out.empty() ? out.back() * 5 + 3 : draw >> 16;
      out.push_back(document_ends ? 0 : static_cast<uint16_t>(1 + next % 63));
    }
    folder_.write(name, {reinterpret_cast<const char*>(out.data()), out.size() * sizeof(uint16_t)});
  }

  testing::TempFolder folder_;
  std::unique_ptr<Communicator> alone_ = make_single_communicator();
};

/// Copies of all weights.
inline std::map<std::string, at::Tensor> weights_of(const Llama& model) {
  std::map<std::string, at::Tensor> weights;
  for (const NamedParameter& parameter : model.parameters()) weights[parameter.name] = parameter.value.detach().clone();
  return weights;
}

/// Names of the weights whose bits differ (NaN equals NaN).
inline std::vector<std::string> changed_weights(const std::map<std::string, at::Tensor>& before,
                                                const std::map<std::string, at::Tensor>& after) {
  std::vector<std::string> changed;
  for (const auto& [name, tensor] : before) {
    const at::ScalarType bits = tensor.element_size() == 2 ? at::kShort : at::kInt;
    if (!at::equal(tensor.view(bits), after.at(name).view(bits))) changed.push_back(name);
  }
  return changed;
}

}  // namespace dga
