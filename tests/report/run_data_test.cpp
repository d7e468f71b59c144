#include "report/run_data.h"

#include <gtest/gtest.h>

#include "support/temp_folder.h"
#include "util/error.h"

namespace dga {
namespace {

std::string line(int64_t step, double loss) {
  return str("{\"step\":", step, ",\"loss\":", loss, ",\"lr\":0.5,\"extra\":1}\n");
}

TEST(RunData, ReadsConfigMetricsAndEvaluations) {
  const testing::TempFolder folder;
  folder.write("config.yaml",
               "run:\n  name: first  # a.yaml:3\ndata:\n  betas: [0.9, 0.95]  # default\n  sources:\n    - name: a\n"
               "      weight: 2\nother: null\n");
  folder.write("metrics.jsonl", line(1, 4.5) + line(2, 4.25));
  folder.write("eval/step-10.json", "{\"step\": 10, \"results\": []}");
  folder.write("eval/step-9.json", "{\"step\": 9, \"results\": []}");
  folder.write("eval/passkey.json", "{\"task\": \"passkey\", \"results\": []}");
  const RunData run = read_run(folder.path());
  EXPECT_EQ(run.name, "first");
  EXPECT_EQ(run.settings, (std::map<std::string, std::string>{{"run.name", "first"},
                                                              {"data.betas", "[0.9, 0.95]"},
                                                              {"data.sources[0].name", "a"},
                                                              {"data.sources[0].weight", "2"},
                                                              {"other", "null"}}));
  EXPECT_EQ(run.series, (nlohmann::json{{"step", {1.0, 2.0}}, {"loss", {4.5, 4.25}}, {"lr", {0.5, 0.5}}}));
  ASSERT_EQ(run.evaluations.size(), 3U);
  EXPECT_EQ(run.evaluations[0].at("file"), "passkey");
  EXPECT_EQ(run.evaluations[1].at("file"), "step-9");
  EXPECT_EQ(run.last_perplexity().at("file"), "step-10");
}

TEST(RunData, ALineStillBeingWrittenIsLeftOutAndDamageIsNamed) {
  const testing::TempFolder folder;
  folder.write("metrics.jsonl", line(1, 4) + "{\"step\": 2, \"lo");
  EXPECT_EQ(read_run(folder.path()).series.at("step"), nlohmann::json({1.0}));
  folder.write("metrics.jsonl", line(1, 4) + "garbage\n" + line(2, 3));
  try {
    read_run(folder.path());
    ADD_FAILURE() << "read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    EXPECT_EQ(folder.relative(error.what()), "metrics.jsonl:2: not a JSON object");
  }
}

TEST(RunData, LongSeriesAreAveragedOverStretches) {
  const testing::TempFolder folder;
  std::string text;
  const auto count = static_cast<int64_t>(2 * kSeriesPoints + 1);
  for (int64_t step = 1; step <= count; ++step) text += line(step, static_cast<double>(step));
  folder.write("metrics.jsonl", text);
  const nlohmann::json loss = read_run(folder.path()).series.at("loss");
  ASSERT_EQ(loss.size(), static_cast<size_t>(count + 2) / 3);
  EXPECT_EQ(loss[0], 2.0);  // of 1, 2, 3
  EXPECT_EQ(loss[1], 5.0);
}

TEST(RunData, RefusesAFolderThatHoldsNoRun) {
  const testing::TempFolder folder;
  EXPECT_THROW(read_run(folder.path()), Error);
}

}  // namespace
}  // namespace dga
