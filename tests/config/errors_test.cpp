#include "config/sample_config.h"

namespace dga::config {
namespace {

using ConfigErrors = SampleTest;

TEST_F(ConfigErrors, UnknownKeyAtTheTop) {
  EXPECT_EQ(error("name: x\nmodle:\n  tied: true\n"), "a.yaml:2: modle: unknown key; did you mean model?");
}

TEST_F(ConfigErrors, UnknownKeyInASection) {
  EXPECT_EQ(error("model:\n  hiden_size: 64\n"), "a.yaml:2: model.hiden_size: unknown key; did you mean hidden_size?");
}

TEST_F(ConfigErrors, UnknownKeyTwoLevelsDown) {
  EXPECT_EQ(error("model:\n  rope:\n    facter: 2\n"),
            "a.yaml:3: model.rope.facter: unknown key; did you mean factor?");
}

TEST_F(ConfigErrors, UnknownKeyInAListItem) {
  EXPECT_EQ(error("sources:\n  - {paths: a}\n  - paths: b\n    wieght: 2\n"),
            "a.yaml:4: sources[1].wieght: unknown key; did you mean weight?");
}

TEST_F(ConfigErrors, UnknownKeyOfAnotherSectionNamesThatSection) {
  EXPECT_EQ(error("model:\n  learning_rate: 0.1\n"),
            "a.yaml:2: model.learning_rate: unknown key; did you mean optimizer.learning_rate?");
}

TEST_F(ConfigErrors, UnknownKeyLikeNoOtherListsTheKnownKeys) {
  EXPECT_EQ(error("model:\n  rope:\n    zzzzzzzz: 1\n"),
            "a.yaml:3: model.rope.zzzzzzzz: unknown key; known keys: factor or original_length");
}

TEST_F(ConfigErrors, WrongTypes) {
  const auto model = [&](const std::string& entry) { return error("model:\n  " + entry + "\n"); };
  EXPECT_EQ(model("hidden_size: wide"), "a.yaml:2: model.hidden_size: expected a whole number, got 'wide'");
  EXPECT_EQ(model("hidden_size: 64.5"), "a.yaml:2: model.hidden_size: expected a whole number, got '64.5'");
  EXPECT_EQ(model("hidden_size: \"64\""), "a.yaml:2: model.hidden_size: expected a whole number, got the text \"64\"");
  EXPECT_EQ(model("hidden_size: [64]"), "a.yaml:2: model.hidden_size: expected a whole number, got a list");
  EXPECT_EQ(model("hidden_size: {a: 1}"), "a.yaml:2: model.hidden_size: expected a whole number, got a mapping");
  EXPECT_EQ(model("hidden_size:"), "a.yaml:2: model.hidden_size: expected a whole number, got nothing");
  EXPECT_EQ(model("tied: yes"), "a.yaml:2: model.tied: expected true or false, got 'yes'");
  EXPECT_EQ(model("tied: \"true\""), "a.yaml:2: model.tied: expected true or false, got the text \"true\"");
  EXPECT_EQ(model("rope: 3"), "a.yaml:2: model.rope: expected a section (a mapping), got '3'");
  EXPECT_EQ(error("optimizer:\n  learning_rate: fast\n"),
            "a.yaml:2: optimizer.learning_rate: expected a number, got 'fast'");
  EXPECT_EQ(error("optimizer:\n  clip_norm: off\n"), "a.yaml:2: optimizer.clip_norm: expected a number, got 'off'");
  EXPECT_EQ(error("name: [a, b]\n"), "a.yaml:1: name: expected text, got a list");
  EXPECT_EQ(error("name:\n"), "a.yaml:1: name: expected text, got nothing; write \"\" for an empty text");
  EXPECT_EQ(error("sources: text\n"), "a.yaml:1: sources: expected a list of mappings, got 'text'");
  EXPECT_EQ(error("sources:\n  - {paths: a}\n  - text\n"),
            "a.yaml:3: sources[1]: expected a mapping, got 'text'\na.yaml:3: sources[1].paths: names no file");
  EXPECT_EQ(error("model: 7\n"), "a.yaml:1: model: expected a section (a mapping), got '7'");
}

TEST_F(ConfigErrors, ListItemsAreNamed) {
  EXPECT_EQ(error("optimizer:\n  betas: [0.9, x]\n"), "a.yaml:2: optimizer.betas[1]: expected a number, got 'x'");
  EXPECT_EQ(error("optimizer:\n  betas:\n    - 0.9\n    - 1.5\n"),
            "a.yaml:4: optimizer.betas[1]: must be at least 0 and at most 1, got 1.5");
  EXPECT_EQ(error("optimizer:\n  milestones: [1, 2.5]\n"),
            "a.yaml:2: optimizer.milestones[1]: expected a whole number, got '2.5'");
  EXPECT_EQ(error("sources:\n  - paths: [a, [b]]\n"), "a.yaml:2: sources[0].paths[1]: expected text, got a list");
  EXPECT_EQ(error("sources:\n  - paths: {a: b}\n"),
            "a.yaml:2: sources[0].paths: expected text or a list of texts, got a mapping");
}

TEST_F(ConfigErrors, OutOfRange) {
  EXPECT_EQ(error("model:\n  hidden_size: 0\n"), "a.yaml:2: model.hidden_size: must be at least 1, got 0");
  EXPECT_EQ(error("model:\n  num_heads: 512\n  hidden_size: 512\n"),
            "a.yaml:2: model.num_heads: must be at least 1 and at most 256, got 512");
  EXPECT_EQ(error("model:\n  rope: {factor: 0.5}\n"), "a.yaml:2: model.rope.factor: must be at least 1, got 0.5");
  EXPECT_EQ(error("model:\n  rope: {original_length: -1}\n"),
            "a.yaml:2: model.rope.original_length: must be at least 1, got -1");
}

TEST_F(ConfigErrors, OpenBoundExcludesTheBound) {
  EXPECT_EQ(error("optimizer:\n  learning_rate: 0\n"), "a.yaml:2: optimizer.learning_rate: must be above 0, got 0");
  EXPECT_EQ(error("optimizer:\n  learning_rate: 1e-300\n"), "no error");
  EXPECT_EQ(error("optimizer:\n  clip_norm: 0.0\n"), "a.yaml:2: optimizer.clip_norm: must be above 0, got 0.0");
}

TEST_F(ConfigErrors, ClosedBoundsIncludeTheBound) {
  EXPECT_EQ(error("optimizer:\n  betas: [0, 1]\n"), "no error");
  EXPECT_EQ(error("model:\n  num_heads: 1\n"), "no error");
}

TEST_F(ConfigErrors, BadChoiceListsTheChoices) {
  EXPECT_EQ(error("optimizer:\n  shape: cosin\n"),
            "a.yaml:2: optimizer.shape: must be constant, linear or cosine, got 'cosin'; did you mean cosine?");
  EXPECT_EQ(error("optimizer:\n  shape: 17\n"),
            "a.yaml:2: optimizer.shape: must be constant, linear or cosine, got '17'");
  EXPECT_EQ(error("optimizer:\n  shape:\n"),
            "a.yaml:2: optimizer.shape: must be constant, linear or cosine, got nothing");
}

TEST_F(ConfigErrors, ContradictionInsideASectionIsReportedAtItsField) {
  EXPECT_EQ(error("model:\n  num_heads: 4\n  hidden_size: 66\n"),
            "a.yaml:3: model.hidden_size: must be a multiple of num_heads, 4");
}

TEST_F(ConfigErrors, ContradictionOfADefaultIsReportedAtTheEnclosingSection) {
  EXPECT_EQ(error("name: x\nmodel:\n  num_heads: 7\n"),
            "a.yaml:2: model.hidden_size: must be a multiple of num_heads, 7");
}

TEST_F(ConfigErrors, ContradictionBetweenSections) {
  EXPECT_EQ(error("optimizer: {shape: constant}\nmodel:\n  rope:\n    factor: 2\n"),
            "a.yaml:4: model.rope.factor: needs a falling rate; set optimizer.shape to linear or cosine");
}

TEST_F(ConfigErrors, AFieldThatCannotBeReadBreaksNoRuleAsWell) {
  EXPECT_EQ(error("model:\n  num_heads: 7\n  hidden_size: wide\n"),
            "a.yaml:3: model.hidden_size: expected a whole number, got 'wide'");
}

TEST_F(ConfigErrors, ContradictionInAListItem) {
  EXPECT_EQ(error("sources:\n  - name: a\n    paths: x\n  - name: b\n"), "a.yaml:4: sources[1].paths: names no file");
}

TEST_F(ConfigErrors, DuplicateKeys) {
  EXPECT_EQ(error("name: a\nmodel: {}\nname: b\n"),
            "a.yaml:3: name: duplicate key, first given in line 1; keep one of them");
  EXPECT_EQ(error("model:\n  tied: true\n  tied: true\n"),
            "a.yaml:3: tied: duplicate key, first given in line 2; keep one of them");
  EXPECT_EQ(error("model: {tied: true, tied: false}\n"),
            "a.yaml:1: tied: duplicate key, first given in line 1; keep one of them");
}

// What follows the place is the YAML library's own sentence, which differs between its releases.
TEST_F(ConfigErrors, YamlSyntax) {
  expect_error_starts("name: a\nmodel: [1, 2\n", "a.yaml:2: YAML syntax: ");
  expect_error_starts("name: a\n\tmodel: 1\n", "a.yaml:2: YAML syntax: ");
  expect_error_starts("name: a\n b: c\n", "a.yaml:2: YAML syntax: ");
}

TEST_F(ConfigErrors, UnclosedQuoteDoesNotSwallowTheRest) {
  expect_error_starts("name: \"open\n", "a.yaml:1: YAML syntax: ");
  expect_error_starts("name: 'open\nmodel:\n  tied: true\n", "a.yaml:3: YAML syntax: ");
}

TEST_F(ConfigErrors, NotOneMapping) {
  EXPECT_EQ(error("- a\n- b\n"), "a.yaml:1: expected sections (a mapping), got a list");
  EXPECT_EQ(error("just text\n"), "a.yaml:1: expected sections (a mapping), got 'just text'");
  EXPECT_EQ(error("name: a\n---\nname: b\n"), "a.yaml:3: a second YAML document; a config is one document");
  EXPECT_EQ(error("[a, b]: c\n"), "a.yaml:1: a key must be plain text");
}

TEST_F(ConfigErrors, AliasOfItselfEnds) { EXPECT_NE(error("name: &x [*x]\n"), "no error"); }

TEST_F(ConfigErrors, MissingFile) {
  Sample sample;
  try {
    Document(folder_.path() / "none.yaml", {});
    FAIL() << "a missing file was read";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::config);
    EXPECT_NE(std::string(e.what()).find("none.yaml"), std::string::npos) << e.what();
  }
}

TEST_F(ConfigErrors, AllErrorsAtOnceInTheOrderOfTheFile) {
  EXPECT_EQ(error("nane: a\n"
                  "model:\n"
                  "  hidden_size: wide\n"
                  "  num_heads: 0\n"
                  "  rope:\n"
                  "    factr: 2\n"
                  "optimizer:\n"
                  "  learning_rate: -1\n"
                  "  shape: round\n"
                  "sources:\n"
                  "  - weight: 0\n"),
            "a.yaml:1: nane: unknown key; did you mean name?\n"
            "a.yaml:3: model.hidden_size: expected a whole number, got 'wide'\n"
            "a.yaml:4: model.num_heads: must be at least 1 and at most 256, got 0\n"
            "a.yaml:6: model.rope.factr: unknown key; did you mean factor?\n"
            "a.yaml:8: optimizer.learning_rate: must be above 0, got -1\n"
            "a.yaml:9: optimizer.shape: must be constant, linear or cosine, got 'round'\n"
            "a.yaml:11: sources[0].weight: must be above 0, got 0\n"
            "a.yaml:11: sources[0].paths: names no file");
}

}  // namespace
}  // namespace dga::config
