#include "checkpoint/state_files.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/temp_folder.h"
#include "util/error.h"

namespace dga {
namespace {

using testing::TempFolder;

TensorPiece piece(const std::string& name, std::vector<int64_t> shape, int64_t first, const at::Tensor& numbers) {
  return {name, std::move(shape), first, {numbers.scalar_type(), numbers.sizes().vec(), [numbers] { return numbers; }}};
}

at::Tensor numbers(int64_t begin, int64_t end) { return at::arange(begin, end, at::kFloat); }

template <class Work>
std::string error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input) << error.what();
    return error.what();
  }
  return "no error";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

/// Tensor `a` [10, 100] in pieces that are dealt out over three files in no order, and `b` whole in one of them.
class ThreeFiles : public ::testing::Test {
 protected:
  ThreeFiles() {
    write(0, {piece("a", {10, 100}, 600, numbers(600, 1000)), piece("a", {10, 100}, 0, numbers(0, 100))});
    write(1, {piece("a", {10, 100}, 100, numbers(100, 356))});
    write(2, {piece("a", {10, 100}, 356, numbers(356, 600)), piece("b", {1, 5}, 0, numbers(0, 5).view({1, 5}))});
  }
  void write(int64_t rank, const std::vector<TensorPiece>& pieces) {
    write_state_file(folder_.path(), {rank, 3}, pieces);
  }
  TempFolder folder_;
};

TEST_F(ThreeFiles, AnyStretchIsRead) {
  const SavedTensors saved = open_state_files(folder_.path());
  ASSERT_EQ(saved.size(), 2U);
  EXPECT_EQ(saved.at("a").shape, (std::vector<int64_t>{10, 100}));
  EXPECT_EQ(saved.at("a").dtype, at::kFloat);
  for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 1000}, {0, 1}, {99, 101}, {100, 356}, {101, 355}, {355, 601}, {999, 1000}, {50, 950}}) {
    EXPECT_TRUE(at::equal(saved.at("a").read(begin, end), numbers(begin, end))) << begin << " " << end;
  }
  EXPECT_EQ(saved.at("b").shape, (std::vector<int64_t>{1, 5}));
  EXPECT_TRUE(at::equal(saved.at("b").read(0, 5), numbers(0, 5)));
}

TEST_F(ThreeFiles, WhatIsWrongIsNamed) {
  write(1, {piece("a", {10, 100}, 100, numbers(100, 300))});
  expect_contains(error_of([&] { open_state_files(folder_.path()).at("a").read(0, 1000); }),
                  "optimizer state a lacks number 300 of 1000");
  for (const TensorPiece& other :
       {piece("a", {1000}, 100, numbers(100, 356)), piece("a", {10, 100}, 800, numbers(0, 256)),
        piece("a", {10, 100}, 100, numbers(100, 356).to(at::kBFloat16))}) {
    write(1, {other});
    expect_contains(error_of([&] { open_state_files(folder_.path()); }), "a differs in shape or type");
  }
}

TEST_F(ThreeFiles, AMissingFileIsNamed) {
  for (const char* name : {"optimizer-00001-of-00003.safetensors", "optimizer-00002-of-00003.safetensors",
                           "optimizer-00003-of-00003.safetensors"}) {
    std::filesystem::rename(folder_.path() / name, folder_.path() / "aside");
    expect_contains(error_of([&] { open_state_files(folder_.path()); }), name);
    std::filesystem::rename(folder_.path() / "aside", folder_.path() / name);
  }
  const TempFolder empty;
  expect_contains(error_of([&] { open_state_files(empty.path()); }), "optimizer.safetensors");
}

TEST_F(ThreeFiles, ADamagedFileIsNamed) {
  const auto file = folder_.path() / "optimizer-00002-of-00003.safetensors";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  expect_contains(error_of([&] { open_state_files(folder_.path()); }), file.filename().string());
}

TEST(StateFiles, OfOneProcess) {
  const TempFolder folder;
  write_state_file(folder.path(), {}, {piece("a", {3, 4}, 0, numbers(0, 12).view({3, 4}))});
  EXPECT_TRUE(at::equal(read_tensors(folder.path() / "optimizer.safetensors").at("a"), numbers(0, 12).view({3, 4})));
  EXPECT_TRUE(at::equal(open_state_files(folder.path()).at("a").read(4, 9), numbers(4, 9)));
}

}  // namespace
}  // namespace dga
