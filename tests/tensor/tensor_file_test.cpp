#include "tensor/tensor_file.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "util/error.h"

namespace dga {
namespace {

class TensorFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("dga_tensor_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

TEST_F(TensorFile, EveryTypeAndShapeComesBackBitForBit) {
  NamedTensors tensors;
  tensors["half"] = at::randn({3, 5}).to(at::kHalf);  // 30 bytes, so the next tensor lies at an odd place
  tensors["h_bfloat"] = at::randn({7}).to(at::kBFloat16);
  tensors["i_double"] = at::randn({2, 1, 3}, at::kDouble);
  tensors["long"] = at::arange(5);
  tensors["none"] = at::empty({0, 4});
  tensors["scalar"] = at::scalar_tensor(2.5);
  tensors["transposed"] = at::arange(6.0).view({2, 3}).t();
  tensors["z_bool"] = at::ones({3}, at::kBool);
  write_tensors(folder_ / "a.safetensors", tensors);
  const NamedTensors read = read_tensors(folder_ / "a.safetensors");
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_TRUE(read.contains(name)) << name;
    EXPECT_EQ(read.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(read.at(name).equal(tensor)) << name;
  }
}

TEST_F(TensorFile, WhatWasReadOutlivesTheFile) {
  write_tensors(folder_ / "a.safetensors", {{"x", at::full({4}, 3.0)}});
  const NamedTensors read = read_tensors(folder_ / "a.safetensors");
  std::filesystem::remove(folder_ / "a.safetensors");
  EXPECT_EQ(read.at("x").sum().item<double>(), 12.0);
}

TEST_F(TensorFile, AViewSharesTheBytes) {
  at::Tensor x = at::zeros({3});
  const at::Tensor y = tensor_of_view(view_of_tensor(x));
  x.fill_(7.0);
  EXPECT_EQ(y.sum().item<double>(), 21.0);
  EXPECT_THROW(view_of_tensor(at::zeros({2, 3}).t()), Error);
}

}  // namespace
}  // namespace dga
