#include "sweep/table.h"

#include "sweep/point_state.h"
#include "sweep_folder.h"

namespace dga {
namespace {

using SweepTableTest = SweepTest;

TEST_F(SweepTableTest, TakesTheLastTenthOfTheLossTheMedianSpeedAndTheLastEvaluation) {
  SweepPlan sweep = plan("grid: {attention.group_size: [4, 16]}\n");
  const std::filesystem::path first = sweep.points[0].folder;
  std::filesystem::create_directories(first / "eval");
  std::string metrics;
  for (int step = 1; step <= 20; ++step) {
    metrics += str("{\"step\":", step, ",\"loss\":", step, ",\"tokens_per_s\":", step * 100, "}\n");
  }
  write_file_atomic(first / "metrics.jsonl", metrics);
  write_file_atomic(first / "config.yaml", "run: {name: a}\n");
  const auto evaluation = [](double nll) {
    return str("{\"looks_ahead\":true,\"results\":[{\"context_length\":64,\"nll\":", nll,
               ",\"perplexity\":7.5,\"visible_pairs_per_token\":12.25}]}");
  };
  write_file_atomic(first / "eval/step-9.json", "{\"step\":9," + evaluation(9.0).substr(1));
  write_file_atomic(first / "eval/step-20.json", "{\"step\":20," + evaluation(2.0).substr(1));
  write_point_state(first, {PointStatus::finished, sweep.points[0].config_hash, 0, "", 1, 2.5});

  EXPECT_EQ(
      sweep_table(sweep).csv(),
      "point,attention.group_size,status,steps,train loss,tokens/s,NLL @64,perplexity @64,pairs/token @64,note\r\n"
      "group_size=4,4,finished,20,19.5000,1100,2.0000,7.500,12.2,looks ahead\r\n"
      "group_size=16,16,pending,,,,,,,\r\n");

  sweep.points[0].config_hash = "of another config";  // whose results these are not
  EXPECT_EQ(sweep_table(sweep).csv(),
            "point,attention.group_size,status,steps,train loss,tokens/s,note\r\n"
            "group_size=4,4,changed,,,,\r\n"
            "group_size=16,16,pending,,,,\r\n");
  write_sweep_results(sweep);
  EXPECT_EQ(read_file(sweep.folder / "report.html").find("group_size=4"), std::string::npos);
}

TEST(SweepTableText, CellsAreQuotedAsTheirFormatsNeed) {
  const SweepTable table{{"point", "note"}, {{"a,b", "say \"no\" | yes"}}};
  EXPECT_EQ(table.csv(), "point,note\r\n\"a,b\",\"say \"\"no\"\" | yes\"\r\n" + std::string());
  EXPECT_EQ(table.markdown(), "| point | note |\n| --- | --- |\n| a,b | say \"no\" \\| yes |\n");
}

}  // namespace
}  // namespace dga
