#include "train/metrics_log.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "support/temp_folder.h"
#include "util/file.h"

namespace dga {
namespace {

TEST(MetricsLog, AppendsLines) {
  const testing::TempFolder folder;
  MetricsLog log(folder.path() / "metrics.jsonl", 0);
  log.append({{"step", 1}});
  log.append({{"step", 2}});
  EXPECT_EQ(read_file(folder.path() / "metrics.jsonl"), "{\"step\":1}\n{\"step\":2}\n");
  EXPECT_EQ(log.sync(), 22);
}

TEST(MetricsLog, GoesOnFromAPosition) {
  const testing::TempFolder folder;
  const auto path = folder.write("metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n{\"st");
  MetricsLog log(path, 11);
  log.append({{"step", 9}});
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":9}\n");
  EXPECT_EQ(log.sync(), 22);
}

TEST(MetricsLog, AFreshRunDropsWhatAnUnsavedOneLeft) {
  const testing::TempFolder folder;
  const auto path = folder.write("metrics.jsonl", "{\"step\":1}\n");
  MetricsLog log(path, 0);
  EXPECT_EQ(log.sync(), 0);
}

TEST(MetricsLog, LinesWaitWhileTheDiskIsFull) {
  const testing::TempFolder folder;
  const auto path = folder.path() / "metrics.jsonl";
  MetricsLog log(path, 0);
  log.append({{"step", 1}});
  // A limit on the size of files is as good as a full disk: part of a line still fits.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit full{15, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &full);
  log.append({{"step", 2}});
  log.append({{"step", 3}});
  EXPECT_EQ(log.sync(), 33);  // where they will end
  EXPECT_EQ(read_file(path), "{\"step\":1}\n");
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  log.append({{"step", 4}});
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n");
  EXPECT_EQ(log.sync(), 44);
}

TEST(MetricsLog, AShorterFileIsKept) {
  const testing::TempFolder folder;
  const auto path = folder.write("metrics.jsonl", "{\"step\":1}\n");
  MetricsLog log(path, 500);
  log.append({{"step", 2}});
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n");
  EXPECT_EQ(log.sync(), 22);
}

}  // namespace
}  // namespace dga
