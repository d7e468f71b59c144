#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "config/load.h"
#include "model/config.h"

namespace dga {
namespace {

struct OnlyModel {
  ModelConfig model;
  void fields(config::Fields& f) { f.section("model", model, "model"); }
};

/// The number in a preset's first line: "# 6,738,415,616 parameters: ...".
int64_t stated_count(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  line = line.substr(0, line.find(" parameters"));
  line.erase(std::remove_if(line.begin(), line.end(), [](char c) { return c < '0' || c > '9'; }), line.end());
  return line.empty() ? 0 : std::stoll(line);
}

LlamaConfig preset(const std::string& name) {
  config::Document document(std::filesystem::path(DGA_SOURCE_DIR) / "configs/model" / (name + ".yaml"), {});
  OnlyModel file;
  document.read_into(file);
  return resolve_model(file.model);
}

TEST(Presets, EachStatesItsParameterCount) {
  int64_t presets = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(DGA_SOURCE_DIR) / "configs/model")) {
    EXPECT_EQ(preset(entry.path().stem().string()).parameter_count(), stated_count(entry.path())) << entry.path();
    ++presets;
  }
  EXPECT_GE(presets, 10);
}

TEST(Presets, PublishedCounts) {
  EXPECT_EQ(preset("llama2_7b").parameter_count(), 6'738'415'616);
  EXPECT_EQ(preset("llama2_13b").parameter_count(), 13'015'864'320);
  EXPECT_EQ(preset("llama2_70b").parameter_count(), 68'976'648'192);
  EXPECT_EQ(preset("llama3_8b").parameter_count(), 8'030'261'248);
  EXPECT_EQ(preset("llama3_70b").parameter_count(), 70'553'706'496);
  EXPECT_EQ(preset("tinyllama_1b").parameter_count(), 1'100'048'384);
  EXPECT_EQ(preset("llama32_1b").parameter_count(), 1'235'814'400);
  EXPECT_LT(preset("debug").parameter_count(), 10'000);
}

}  // namespace
}  // namespace dga
