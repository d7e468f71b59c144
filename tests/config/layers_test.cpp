#include "config/sample_config.h"

namespace dga::config {
namespace {

using ConfigLayers = SampleTest;

TEST_F(ConfigLayers, LaterIncludesGoOverEarlierOnesAndTheFileOverAll) {
  folder_.write("base.yaml", "model: {hidden_size: 128, num_heads: 8, tied: true}\nname: base\n");
  folder_.write("wide.yaml", "model: {hidden_size: 256}\nname: wide\n");
  const Sample sample = read("include: [base.yaml, wide.yaml]\nmodel:\n  num_heads: 16\n");
  EXPECT_EQ(sample.name, "wide");
  EXPECT_EQ(sample.model.hidden_size, 256);
  EXPECT_EQ(sample.model.num_heads, 16);
  EXPECT_TRUE(sample.model.tied);
}

TEST_F(ConfigLayers, WhereIncludeStandsInTheFileDoesNotMatter) {
  folder_.write("base.yaml", "name: base\n");
  EXPECT_EQ(read("name: own\ninclude: base.yaml\n").name, "own");
}

TEST_F(ConfigLayers, IncludePathsAreRelativeToTheFileThatNamesThem) {
  folder_.write("parts/model/tiny.yaml", "model: {hidden_size: 32}\n");
  folder_.write("parts/base.yaml", "include: model/tiny.yaml\nname: base\n");
  const Sample sample = read_file("runs/deep/a.yaml", "include: ../../parts/base.yaml\n");
  EXPECT_EQ(sample.name, "base");
  EXPECT_EQ(sample.model.hidden_size, 32);
}

TEST_F(ConfigLayers, TheSameFileMayBeIncludedOnTwoWays) {
  folder_.write("base.yaml", "name: base\n");
  folder_.write("b.yaml", "include: base.yaml\n");
  folder_.write("c.yaml", "include: base.yaml\n");
  EXPECT_EQ(read("include: [b.yaml, c.yaml]\n").name, "base");
}

TEST_F(ConfigLayers, ListsAreReplacedNotJoined) {
  folder_.write("base.yaml",
                "sources:\n  - {name: a, paths: x, weight: 3}\n  - {name: b, paths: y}\n"
                "optimizer: {betas: [0.1, 0.2]}\n");
  const Sample sample = read("include: base.yaml\nsources:\n  - {paths: z}\noptimizer: {betas: [0.5]}\n");
  ASSERT_EQ(sample.sources.size(), 1u);
  EXPECT_EQ(sample.sources[0], (Source{"", {"z"}, 1.0}));
  EXPECT_EQ(sample.optimizer.betas, std::vector<double>{0.5});
}

TEST_F(ConfigLayers, AnEmptySectionLeavesWhatIsBelow) {
  folder_.write("base.yaml", "model: {hidden_size: 128}\n");
  EXPECT_EQ(read("include: base.yaml\nmodel:\n").model.hidden_size, 128);
}

TEST_F(ConfigLayers, NullTakesAnOptionalNumberAway) {
  EXPECT_EQ(read("").optimizer.clip_norm, 1.0);
  EXPECT_EQ(read("optimizer: {clip_norm: null}\n").optimizer.clip_norm, std::nullopt);
  EXPECT_EQ(read("optimizer: {clip_norm: 2}\n", {"optimizer.clip_norm="}).optimizer.clip_norm, std::nullopt);
}

TEST_F(ConfigLayers, MissingIncludeNamesTheLine) {
  EXPECT_EQ(error("name: a\ninclude: none.yaml\n").substr(0, 18), "a.yaml:2: include:");
  EXPECT_NE(error("name: a\ninclude: none.yaml\n").find("none.yaml"), std::string::npos);
}

TEST_F(ConfigLayers, IncludeOfTheWrongType) {
  EXPECT_EQ(error("include: {a: b}\n"), "a.yaml:1: include: expected a path or a list of paths, got a mapping");
  EXPECT_EQ(error("include: [[b]]\n"), "a.yaml:1: include: expected a path or a list of paths, got a list");
}

TEST_F(ConfigLayers, IncludeStandsAtTheTopOnly) {
  EXPECT_EQ(error("model:\n  include: b.yaml\n"),
            "a.yaml:2: model.include: unknown key; known keys: hidden_size, num_heads, tied or rope");
}

TEST_F(ConfigLayers, Cycles) {
  EXPECT_EQ(error("include: a.yaml\n"),
            "a.yaml:1: include: a.yaml is being read already; files include each other in a cycle");
  folder_.write("b.yaml", "name: b\ninclude: a.yaml\n");
  EXPECT_EQ(error("include: b.yaml\n"),
            "b.yaml:2: include: a.yaml is being read already; files include each other in a cycle");
}

TEST_F(ConfigLayers, ErrorsNameTheFileTheyStandIn) {
  folder_.write("base.yaml", "model:\n  tied: 3\n");
  EXPECT_EQ(error("include: base.yaml\nname: [x]\n"),
            "a.yaml:2: name: expected text, got a list\nbase.yaml:2: model.tied: expected true or false, got '3'");
  folder_.write("broken.yaml", "model: {tied: true\n");
  EXPECT_EQ(error("include: broken.yaml\n").substr(0, 14), "broken.yaml:1:");
}

TEST_F(ConfigLayers, AssignmentsGoOverTheFile) {
  const Sample sample = read("model: {hidden_size: 128, num_heads: 8}\n",
                             {"model.hidden_size=256", "optimizer.betas=[0.8, 0.9]", "name=b", "model.rope.factor=2"});
  EXPECT_EQ(sample.model.hidden_size, 256);
  EXPECT_EQ(sample.model.num_heads, 8);
  EXPECT_EQ(sample.model.rope.factor, 2);
  EXPECT_EQ(sample.optimizer.betas, (std::vector<double>{0.8, 0.9}));
  EXPECT_EQ(sample.name, "b");
}

TEST_F(ConfigLayers, TheLastOfTwoAssignmentsWins) { EXPECT_EQ(read("", {"name=b", "name=c"}).name, "c"); }

TEST_F(ConfigLayers, AssignmentsAloneMakeADocument) {
  Sample sample;
  Document("", {"name=b", "model={tied: true}"}).read_into(sample);
  EXPECT_EQ(sample.name, "b");
  EXPECT_TRUE(sample.model.tied);
}

TEST_F(ConfigLayers, AnAssignedMappingMerges) {
  const Sample sample = read("model: {hidden_size: 128}\n", {"model={tied: true}"});
  EXPECT_EQ(sample.model.hidden_size, 128);
  EXPECT_TRUE(sample.model.tied);
}

TEST_F(ConfigLayers, AnAssignmentReachesAnItemOfAList) {
  const std::string yaml = "sources:\n  - {name: a, paths: x}\n  - {name: b, paths: y}\n";
  EXPECT_EQ(read(yaml, {"sources.1.weight=3"}).sources[1], (Source{"b", {"y"}, 3.0}));
  EXPECT_EQ(read(yaml, {"sources[0].weight=4"}).sources[0], (Source{"a", {"x"}, 4.0}));
  EXPECT_EQ(error(yaml, {"sources.2.weight=3"}),
            "--set sources.2.weight=3: sources is a list of 2 items, numbered from 0; 2 is none of them");
}

TEST_F(ConfigLayers, AnAssignedValueMayHoldEqualSigns) { EXPECT_EQ(read("", {"name=a=b"}).name, "a=b"); }

TEST_F(ConfigLayers, WrongAssignments) {
  EXPECT_EQ(error("", {"model.hiden_size=64"}), "--set: model.hiden_size: unknown key; did you mean hidden_size?");
  EXPECT_EQ(error("", {"modle.hidden_size=64"}), "--set: modle: unknown key; did you mean model?");
  EXPECT_EQ(error("", {"model.hidden_size=wide"}), "--set: model.hidden_size: expected a whole number, got 'wide'");
  EXPECT_EQ(error("", {"optimizer.learning_rate=0"}), "--set: optimizer.learning_rate: must be above 0, got 0");
  EXPECT_EQ(error("", {"model.hidden_size=66"}), "--set: model.hidden_size: must be a multiple of num_heads, 4");
  EXPECT_EQ(error("", {"model.tied"}), "--set model.tied: lacks '='; write --set section.field=value");
  EXPECT_EQ(error("", {"=3"}), "--set =3: no field before '='; write --set section.field=value");
  EXPECT_EQ(error("", {"model..tied=true"}),
            "--set model..tied=true: no field before '='; write --set section.field=value");
  EXPECT_EQ(error("", {"include=b.yaml"}), "--set include=b.yaml: include can only stand in a file");
  EXPECT_EQ(error("", {"name=[a"}).substr(0, 14), "--set name=[a:");
  EXPECT_EQ(error("name: a\n", {"name.x=1"}), "--set: name: expected text, got a mapping");
}

TEST_F(ConfigLayers, AllWrongAssignmentsAtOnce) {
  EXPECT_EQ(error("", {"a", "b"}),
            "--set a: lacks '='; write --set section.field=value\n"
            "--set b: lacks '='; write --set section.field=value");
}

TEST_F(ConfigLayers, DefaultsOfASectionLieBelowEverything) {
  Document document(folder_.write("a.yaml", "model: {hidden_size: 128}\n"), {"model.tied=true"});
  document.set_defaults("model", "{hidden_size: 32, num_heads: 2, tied: false}", "recorded.json");
  Sample sample;
  document.read_into(sample);
  EXPECT_EQ(sample.model.hidden_size, 128);
  EXPECT_EQ(sample.model.num_heads, 2);
  EXPECT_TRUE(sample.model.tied);
  EXPECT_NE(document.print(sample).find("num_heads: 2  # recorded.json\n"), std::string::npos)
      << document.print(sample);
}

TEST_F(ConfigLayers, TextAt) {
  const Document document(folder_.write("a.yaml", "model: {path: x/y}\nsources: [{name: s}]\n"), {});
  EXPECT_EQ(document.text_at("model.path"), "x/y");
  EXPECT_EQ(document.text_at("sources[0].name"), "s");
  EXPECT_EQ(document.text_at("model.none"), "");
  EXPECT_EQ(document.text_at("model"), "");
}

}  // namespace
}  // namespace dga::config
