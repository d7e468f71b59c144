#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/temp_folder.h"
#include "sweep/plan.h"
#include "util/error.h"
#include "util/file.h"
#include "util/log.h"

namespace dga {

/// A folder with a small run to vary: base.yaml.
class SweepTest : public ::testing::Test {
 protected:
  SweepTest() {
    log::set_level(log::Level::error);
    folder_.write("base.yaml", R"(
run: {device: cpu}
model: {vocab_size: 64, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 4,
        num_key_value_heads: 2, initializer_range: 0.2}
data: {context_length: 32, bos: false, eos: false, cache: )" +
                                   (folder_.path() / "cache").string() +
                                   ", sources: [{name: tiny, format: u16, separator: 0, paths: " +
                                   (folder_.path() / "tokens.u16").string() + R"(}]}
train: {steps: 6, global_batch_size: 2}
checkpoint: {every_steps: 0}
parallel: {threads: 1}
)");
  }

  /// Reads a sweep of base.yaml; `more` are the lines that say what is varied.
  SweepPlan plan(const std::string& more, const std::vector<std::string>& assignments = {}) {
    const std::string head = "config: base.yaml\nfolder: " + (folder_.path() / "out").string() + "\n";
    return read_sweep(folder_.write("sweep.yaml", head + more), assignments);
  }
  std::string error(const std::string& more) {
    try {
      plan(more);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::config) << e.what();
      return folder_.relative(e.what());
    }
    return "no error";
  }
  static std::vector<std::string> names(const SweepPlan& plan) {
    std::vector<std::string> names;
    for (const SweepPoint& point : plan.points) names.push_back(point.name);
    return names;
  }

  testing::TempFolder folder_;
};

}  // namespace dga
