#include "checkpoint/reader.h"

#include <gtest/gtest.h>

#include "checkpoint/writer.h"
#include "checkpoint_folder.h"
#include "util/error.h"

namespace dga {
namespace {
namespace fs = std::filesystem;

std::string failure_of(const CheckpointFolder& checkpoint) {
  try {
    verify_checkpoint(checkpoint);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    return error.what();
  }
}

TEST(ListCheckpoints, OrdersByNumberAndIgnoresTheRest) {
  const TempFolder root;
  for (const char* name :
       {"step-9", "step-100", "step-20", "step-", "step-1x", "step--3", ".writing-step-7", "other"}) {
    fs::create_directory(root.path() / name);
  }
  put(root.path() / "step-5", "a file");
  std::vector<int64_t> steps;
  for (const CheckpointFolder& checkpoint : list_checkpoints(root.path())) steps.push_back(checkpoint.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{9, 20, 100}));
  EXPECT_TRUE(list_checkpoints(root.path() / "absent").empty());
}

TEST(VerifyCheckpoint, EveryDamagedFileIsNamed) {
  const TempFolder root;
  for (const std::string name : {"weights", "state.json", "manifest.json"}) {
    const CheckpointFolder checkpoint{6, write_alone(root.path(), example(6))};
    const fs::path path = checkpoint.path / name;
    const std::string whole = contents(path);

    for (const size_t position : {size_t{0}, whole.size() / 2, whole.size() - 1}) {
      std::string damaged = whole;
      damaged[position] = static_cast<char>(damaged[position] ^ 1);
      put(path, damaged);
      EXPECT_NE(failure_of(checkpoint).find(path.string()), std::string::npos) << name << " byte " << position;
    }
    put(path, whole.substr(0, whole.size() - 1));
    EXPECT_NE(failure_of(checkpoint).find(path.string()), std::string::npos) << name << " cut short";
    fs::remove(path);
    EXPECT_NE(failure_of(checkpoint).find(name), std::string::npos) << name << " missing";
  }
}

TEST(VerifyCheckpoint, RefusesAnotherStep) {
  const TempFolder root;
  const CheckpointFolder checkpoint{6, write_alone(root.path(), example(6))};
  fs::rename(checkpoint.path, root.path() / "step-8");
  EXPECT_NE(failure_of({8, root.path() / "step-8"}).find("holds step 6"), std::string::npos);
}

TEST(NewestCompleteCheckpoint, AForeignFileCostsNoSteps) {
  const TempFolder root;
  for (const int64_t step : {4, 6}) write_alone(root.path(), example(step));
  for (const char* name : {"notes.txt", ".nfs0001", ".DS_Store"}) put(root.path() / "step-6" / name, "");
  EXPECT_EQ(newest_complete_checkpoint(root.path())->step, 6);
  for (const std::string name : {"model-00001.safetensors", "model.safetensors.index.json", "tokenizer.model"}) {
    put(root.path() / "step-6" / name, "might be loaded");
    try {
      newest_complete_checkpoint(root.path());
      ADD_FAILURE() << name << " was not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::input);
      EXPECT_EQ(error.what(),
                (root.path() / "step-6" / name).string() + " does not belong to the checkpoint; remove it");
    }
    fs::remove(root.path() / "step-6" / name);
  }
}

TEST(NewestCompleteCheckpoint, SkipsDamagedOnes) {
  const TempFolder root;
  EXPECT_FALSE(newest_complete_checkpoint(root.path()).has_value());
  for (const int64_t step : {8, 9, 10}) write_alone(root.path(), example(step));
  EXPECT_EQ(newest_complete_checkpoint(root.path())->step, 10);
  put(root.path() / "step-10/weights", "damaged");
  EXPECT_EQ(newest_complete_checkpoint(root.path())->step, 9);
  fs::remove(root.path() / "step-9/manifest.json");
  EXPECT_EQ(newest_complete_checkpoint(root.path())->step, 8);
  fs::remove(root.path() / "step-8/state.json");
  EXPECT_FALSE(newest_complete_checkpoint(root.path()).has_value());
}

}  // namespace
}  // namespace dga
