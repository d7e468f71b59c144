#include <limits>

#include "config/sample_config.h"

namespace dga::config {
namespace {

using ConfigPrinter = SampleTest;

std::string plain(Sample sample) {
  return to_yaml([&](Fields& f) { sample.fields(f); });
}

TEST_F(ConfigPrinter, OriginsOfEveryLayer) {
  folder_.write("base.yaml", "model:\n  hidden_size: 128\n  num_heads: 8\n");
  const std::string yaml =
      "include: base.yaml\nname: mine\nmodel:\n  num_heads: 16\nsources:\n  - name: a\n    paths: [x, z]\n";
  Document document(folder_.write("a.yaml", yaml), {"model.tied=true", "optimizer.betas=[0.5, 0.75]"});
  Sample sample;
  document.read_into(sample);
  EXPECT_EQ(folder_.relative(document.print(sample)),
            "name: mine  # a.yaml:2\n"
            "model:\n"
            "  hidden_size: 128  # base.yaml:2\n"
            "  num_heads: 16  # a.yaml:4\n"
            "  tied: true  # --set\n"
            "  rope:\n"
            "    factor: 1  # default\n"
            "    original_length: ~  # default\n"
            "optimizer:\n"
            "  learning_rate: 0.0003  # default\n"
            "  betas: [0.5, 0.75]  # --set\n"
            "  milestones: []  # default\n"
            "  clip_norm: 1  # default\n"
            "  shape: cosine  # default\n"
            "sources:\n"
            "  - name: a  # a.yaml:6\n"
            "    paths: [x, z]  # a.yaml:7\n"
            "    weight: 1  # default\n");
}

Sample hostile_sample() {
  Sample sample;
  sample.name = "a: b # c \"quoted\" \\ 'x'\n\ttab \xc3\xa4";
  sample.model.rope = {4.0, 4096};
  sample.optimizer.learning_rate = 0.1 + 0.2;
  sample.optimizer.betas = {1.0 / 3.0, std::numeric_limits<double>::denorm_min(), 1 - 1e-16};
  sample.optimizer.milestones = {1, std::numeric_limits<int64_t>::max()};
  sample.optimizer.clip_norm = std::nullopt;
  sample.optimizer.shape = Shape::linear;
  for (const char* text : {"true", "null", "~",   "",   "12", "1e5", "- x", "yes", "*", "&a",
                           "!x",   "[a]",  "{a}", "x:", "#",  " x ", "%d",  "@x",  "`", "data/*.jsonl.zst",
                           "--set"}) {
    sample.sources.push_back({text, {text, "b"}, 1e-7});
  }
  return sample;
}

TEST_F(ConfigPrinter, PlainTextReadsBackToTheSameValues) {
  const Sample sample = hostile_sample();
  EXPECT_EQ(read(plain(sample)), sample) << plain(sample);
}

TEST_F(ConfigPrinter, TextWithOriginsReadsBackToTheSameValues) {
  Document document(folder_.write("hostile.yaml", plain(hostile_sample())), {});
  Sample sample;
  document.read_into(sample);
  const std::string resolved = document.print(sample);
  EXPECT_NE(resolved.find("hostile.yaml:"), std::string::npos);
  EXPECT_EQ(read(resolved), hostile_sample()) << resolved;
}

TEST_F(ConfigPrinter, TextThatLooksLikeAnotherTypeIsQuoted) {
  for (const std::string text : {"true", "No", "1e5", "12", "0x10", ".inf", "null", "on"}) {
    Sample sample;
    sample.name = text;
    EXPECT_EQ(plain(sample).substr(0, 10 + text.size()), "name: \"" + text + "\"\nm") << plain(sample);
  }
}

TEST_F(ConfigPrinter, DefaultsReadBack) { EXPECT_EQ(read(plain(Sample{})), Sample{}); }

}  // namespace
}  // namespace dga::config
