#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "config/load.h"
#include "support/temp_folder.h"

/// A config with every type of field, and what the tests do with it.
namespace dga::config {

enum class Shape { constant, linear, cosine };
inline auto enum_names(Shape) {
  return names<Shape>({{Shape::constant, "constant"}, {Shape::linear, "linear"}, {Shape::cosine, "cosine"}});
}

struct Rope {
  double factor = 1;
  std::optional<int64_t> original_length;
  void fields(Fields& f) {
    f.field("factor", factor, "new length / trained length", at_least(1));
    f.field("original_length", original_length, "trained length", at_least(1));
  }
  bool operator==(const Rope&) const = default;
};

struct Model {
  int64_t hidden_size = 64;
  int64_t num_heads = 4;
  bool tied = false;
  Rope rope;
  void fields(Fields& f) {
    f.field("hidden_size", hidden_size, "width", at_least(1));
    f.field("num_heads", num_heads, "heads", between(1, 256));
    f.field("tied", tied, "tie the embeddings");
    f.section("rope", rope, "rotary embedding");
  }
  void check(Checker& c) const {
    c.require(hidden_size % num_heads == 0, "hidden_size", str("must be a multiple of num_heads, ", num_heads));
  }
  bool operator==(const Model&) const = default;
};

struct Source {
  std::string name;
  std::vector<std::string> paths;
  double weight = 1;
  void fields(Fields& f) {
    f.field("name", name, "unique name");
    f.field("paths", paths, "globs");
    f.field("weight", weight, "share", above(0));
  }
  void check(Checker& c) const { c.require(!paths.empty(), "paths", "names no file"); }
  bool operator==(const Source&) const = default;
};

struct Optimizer {
  double learning_rate = 3e-4;
  std::vector<double> betas = {0.9, 0.95};
  std::vector<int64_t> milestones;
  std::optional<double> clip_norm = 1.0;
  Shape shape = Shape::cosine;
  void fields(Fields& f) {
    f.field("learning_rate", learning_rate, "highest rate", above(0));
    f.field("betas", betas, "decays", between(0, 1));
    f.field("milestones", milestones, "steps", at_least(1));
    f.field("clip_norm", clip_norm, "global norm", above(0));
    f.field("shape", shape, "how the rate falls");
  }
  bool operator==(const Optimizer&) const = default;
};

struct Sample {
  std::string name = "sample";
  Model model;
  Optimizer optimizer;
  std::vector<Source> sources;
  void fields(Fields& f) {
    f.field("name", name, "what it is called");
    f.section("model", model, "the model");
    f.section("optimizer", optimizer, "the optimizer");
    f.list("sources", sources, "the text");
  }
  void check(Checker& c) const {
    c.require(name != "forbidden", "name", "must not be forbidden");
    c.require(model.rope.factor == 1 || optimizer.shape != Shape::constant, "model.rope.factor",
              "needs a falling rate; set optimizer.shape to linear or cosine");
  }
  bool operator==(const Sample&) const = default;
};

class SampleTest : public ::testing::Test {
 protected:
  Sample read(const std::string& yaml, const std::vector<std::string>& assignments = {}) {
    return read_file("a.yaml", yaml, assignments);
  }
  Sample read_file(const std::string& name, const std::string& yaml, const std::vector<std::string>& assignments = {}) {
    Sample sample;
    Document(folder_.write(name, yaml), assignments).read_into(sample);
    return sample;
  }
  /// The message of the config error that `yaml` and `assignments` lead to; paths are relative to the test's folder.
  std::string error(const std::string& yaml, const std::vector<std::string>& assignments = {}) {
    try {
      read(yaml, assignments);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::config);
      return folder_.relative(e.what());
    }
    return "no error";
  }

  void expect_error_starts(const std::string& yaml, const std::string& start) {
    EXPECT_EQ(error(yaml).substr(0, start.size()), start) << error(yaml);
  }

  testing::TempFolder folder_;
};

}  // namespace dga::config
