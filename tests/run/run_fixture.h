#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "run/run_config.h"
#include "support/temp_folder.h"

namespace dga {

class RunTest : public ::testing::Test {
 protected:
  /// A config that trains: the smallest that passes, with `more` behind it.
  static std::string training_yaml(const std::string& more = "") {
    return "model: {vocab_size: 96, hidden_size: 16, intermediate_size: 40, num_hidden_layers: 2,\n"
           "        num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 256}\n"
           "data:\n"
           "  tokenizer: tok.model\n"
           "  context_length: 128\n"
           "  sources: [{name: s, paths: s.jsonl}]\n" +
           more;
  }
  LoadedRun load(const std::string& yaml, const std::vector<std::string>& assignments = {}) {
    return load_run(folder_.write("a.yaml", yaml), assignments, RunUse::training);
  }
  std::string error(const std::string& yaml, const std::vector<std::string>& assignments = {},
                    ExitCode code = ExitCode::config) {
    try {
      load(yaml, assignments);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      return folder_.relative(e.what());
    }
    return "no error";
  }

  testing::TempFolder folder_;
};

}  // namespace dga
