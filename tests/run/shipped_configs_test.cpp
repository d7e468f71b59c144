#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "config/load.h"
#include "run/run_config.h"

namespace dga {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> yaml_files(const std::string& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(DGA_SOURCE_DIR) / folder)) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// Reads a file with every rule but those that need the model's folder, which a run may only make.
void read(const fs::path& file, const std::vector<std::string>& assignments) {
  RunConfig config;
  config::Document(file, assignments).read_into(config);
}

const std::vector<std::string> kTinyShape = {"model.vocab_size=96", "model.hidden_size=16",
                                             "model.intermediate_size=40", "model.num_hidden_layers=2",
                                             "model.num_attention_heads=4"};

/// The settings that the kind and selection use, as text.
std::string effective(AttentionConfig attention) {
  const AttentionConfig defaults;
  if (attention.kind != AttentionKind::dga) {
    AttentionConfig windowed;
    windowed.kind = attention.kind;
    if (attention.kind != AttentionKind::full) {
      windowed.sink_tokens = attention.sink_tokens;
      windowed.window = attention.window;
      if (attention.kind == AttentionKind::streaming) windowed.sink_positions = attention.sink_positions;
    }
    attention = windowed;
  } else if (attention.selection == Selection::causal) {
    attention.local_window = defaults.local_window;
    attention.sampled_queries = defaults.sampled_queries;
    attention.query_sampling = defaults.query_sampling;
  } else {
    attention.block_size = defaults.block_size;
    attention.local_blocks = defaults.local_blocks;
  }
  if (attention.selection == Selection::none) {
    attention.sampled_queries = defaults.sampled_queries;
    attention.query_sampling = defaults.query_sampling;
  }
  if (attention.kind == AttentionKind::dga) {
    attention.sink_tokens = defaults.sink_tokens;
    attention.window = defaults.window;
    attention.sink_positions = defaults.sink_positions;
  }
  return config::to_yaml([&](config::Fields& f) { attention.fields(f); });
}

TEST(ShippedConfigs, ModelsAreValid) {
  const std::vector<fs::path> files = yaml_files("configs/model");
  EXPECT_GE(files.size(), 8u);
  for (const fs::path& file : files) EXPECT_NO_THROW(read(file, {})) << file;
}

TEST(ShippedConfigs, BenchesAreValid) {
  const std::vector<fs::path> files = yaml_files("configs/bench");
  EXPECT_GE(files.size(), 5u);
  for (const fs::path& file : files) EXPECT_NO_THROW(read(file, {})) << file;
}

TEST(ShippedConfigs, AttentionIsValid) {
  const std::vector<fs::path> files = yaml_files("configs/attention");
  EXPECT_GE(files.size(), 4u);
  for (const fs::path& file : files) EXPECT_NO_THROW(read(file, kTinyShape)) << file;
}

TEST(ShippedConfigs, AttentionFilesLeaveNothingOfEachOther) {
  // A run may include one of them over another, or start from a folder that records another.
  for (const fs::path& lower : yaml_files("configs/attention")) {
    for (const fs::path& upper : yaml_files("configs/attention")) {
      const fs::path both = fs::temp_directory_path() / ("dga_two_layers_" + std::to_string(getpid()) + ".yaml");
      std::ofstream(both) << "include: [" << lower << ", " << upper << "]\n";
      RunConfig alone, over;
      config::Document(upper, kTinyShape).read_into(alone);
      config::Document(both, kTinyShape).read_into(over);
      fs::remove(both);
      EXPECT_EQ(effective(over.attention), effective(alone.attention)) << lower << " below " << upper;
    }
  }
}

TEST(ShippedConfigs, RunsAreValid) {
  const std::vector<fs::path> files = yaml_files("configs");
  EXPECT_GE(files.size(), 2u);
  for (const fs::path& file : files) {
    if (file.filename() == "quickstart_text.yaml") continue;  // a part of two others
    try {
      read(file, {});
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
}

}  // namespace
}  // namespace dga
