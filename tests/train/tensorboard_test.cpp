#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "tiny_run.h"
#include "train/tensorboard_log.h"
#include "util/file.h"

namespace dga {
namespace {

namespace fs = std::filesystem;

/// An Event as this test's own decoder reads it, by the published field numbers.
struct Event {
  double wall_time = 0;
  int64_t step = 0;
  std::string version;
  int64_t session_status = 0;
  std::map<std::string, float> values;
};

/// Field number to contents, of one message; varints and fixed numbers as 64 bits.
struct Field {
  uint64_t number;
  uint64_t bits;
  std::string bytes;
};
std::vector<Field> fields_of(const std::string& message) {
  std::vector<Field> fields;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(at++));
      value |= uint64_t{byte & 0x7FU} << shift;
      if (byte < 128) return value;
    }
  };
  while (at < message.size()) {
    const uint64_t head = varint();
    Field field{head >> 3, 0, ""};
    if ((head & 7) == 0) {
      field.bits = varint();
    } else if ((head & 7) == 2) {
      const uint64_t size = varint();
      field.bytes = message.substr(at, size);
      at += size;
    } else {
      const size_t size = (head & 7) == 1 ? 8 : 4;
      std::memcpy(&field.bits, message.data() + at, size);
      at += size;
    }
    fields.push_back(field);
  }
  return fields;
}

Event decode(const std::string& message) {
  Event event;
  for (const Field& field : fields_of(message)) {
    if (field.number == 1) std::memcpy(&event.wall_time, &field.bits, 8);
    if (field.number == 2) event.step = static_cast<int64_t>(field.bits);
    if (field.number == 3) event.version = field.bytes;
    if (field.number == 7) event.session_status = static_cast<int64_t>(fields_of(field.bytes).at(0).bits);
    if (field.number != 5) continue;
    for (const Field& value : fields_of(field.bytes)) {
      const std::vector<Field> parts = fields_of(value.bytes);
      std::memcpy(&event.values[parts.at(0).bytes], &parts.at(1).bits, 4);
    }
  }
  return event;
}

/// CRC-32C bit by bit, masked as the record format says.
uint32_t slow_masked_crc(const std::string& bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82F63B78 : crc >> 1;
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8;
}

std::vector<Event> read_events(const fs::path& file) {
  const std::string bytes = read_file(file);
  std::vector<Event> events;
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length = 0;
    uint32_t length_crc = 0, content_crc = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    std::memcpy(&length_crc, bytes.data() + at + 8, 4);
    EXPECT_EQ(length_crc, slow_masked_crc(bytes.substr(at, 8)));
    const std::string content = bytes.substr(at + 12, length);
    std::memcpy(&content_crc, bytes.data() + at + 12 + length, 4);
    EXPECT_EQ(content_crc, slow_masked_crc(content));
    events.push_back(decode(content));
    at += 16 + length;
  }
  return events;
}

/// Steps with values, over all files of the folder in the order of their names.
std::vector<int64_t> steps_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<int64_t> steps;
  for (const fs::path& file : files) {
    for (const Event& event : read_events(file)) {
      if (!event.values.empty()) steps.push_back(event.step);
    }
  }
  return steps;
}

fs::path only_file(const fs::path& folder) { return fs::directory_iterator(folder)->path(); }

TEST(EventFile, ChecksumIsTheCastagnoliOne) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(""), 0U);
}

TEST(Tensorboard, WritesVersionSessionAndNumbers) {
  const testing::TempFolder folder;
  TensorboardLog(folder.path(), 0)
      .append({{"step", 300},
               {"loss", 4.5},
               {"lr", 0.25},
               {"skipped", true},
               {"eval", {{{"context_length", 64}, {"nll", 2.0}, {"perplexity", 7.5}}}}});
  const std::vector<Event> events = read_events(only_file(folder.path()));
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[1].session_status, 1);
  EXPECT_EQ(events[1].step, 1);
  EXPECT_EQ(events[2].step, 300);
  EXPECT_GT(events[2].wall_time, 1.7e9);
  EXPECT_EQ(events[2].values,
            (std::map<std::string, float>{
                {"train/loss", 4.5F}, {"train/lr", 0.25F}, {"eval/nll_64", 2.0F}, {"eval/perplexity_64", 7.5F}}));
}

TEST(Tensorboard, AStartForgetsWhatLiesBeyondItsStep) {
  const testing::TempFolder folder;
  {
    TensorboardLog first(folder.path(), 0);
    for (int step = 1; step <= 400; ++step) first.append({{"step", step}, {"loss", 1.0}});
  }
  TensorboardLog second(folder.path(), 390);
  second.append({{"step", 391}, {"loss", 2.0}});
  std::vector<int64_t> expected(391);
  std::iota(expected.begin(), expected.end(), 1);
  EXPECT_EQ(steps_in(folder.path()), expected);
}

TEST(Tensorboard, ATornRecordIsCutOff) {
  const testing::TempFolder folder;
  TensorboardLog(folder.path(), 0).append({{"step", 1}, {"loss", 1.0}});
  const fs::path file = only_file(folder.path());
  const auto size = fs::file_size(file);
  OutputFile(file, /*append=*/true).write("torn");
  cut_event_file(file, 10);
  EXPECT_EQ(fs::file_size(file), size);
  fs::resize_file(file, size - 3);
  cut_event_file(file, 10);
  EXPECT_EQ(read_events(file).size(), 2U);
}

TEST(Tensorboard, ARunThatIsResumedHasEveryStepOnce) {
  const TinyRun run;
  {
    const auto trainer = run.trainer({"train.steps=8"});
    for (int step = 0; step < 3; ++step) trainer->train_step();
    trainer->save();
    trainer->finish_saving();
  }
  { run.trainer({"train.steps=8"})->run(); }                // steps 4 to 8
  fs::remove_all(run.run_folder() / "checkpoints/step-8");  // as if the node had died before it
  { run.trainer({"train.steps=8"})->run(); }
  EXPECT_EQ(steps_in(run.run_folder() / "tensorboard"), (std::vector<int64_t>{4, 5, 6, 7, 8}));
}

TEST(Tensorboard, CanBeOff) {
  const TinyRun run;
  run.trainer({"log.tensorboard=false"})->run();
  EXPECT_FALSE(fs::exists(run.run_folder() / "tensorboard"));
}

}  // namespace
}  // namespace dga
