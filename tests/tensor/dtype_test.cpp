#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include "tensor/device.h"
#include "util/error.h"

namespace dga {
namespace {

TEST(Dtype, NamesOfEveryKindMeetInOneType) {
  EXPECT_EQ(dtype_of_safetensors("BF16"), c10::kBFloat16);
  EXPECT_EQ(dtype_of_name("bf16"), c10::kBFloat16);
  EXPECT_EQ(hf_dtype_name(c10::kBFloat16), "bfloat16");
  EXPECT_EQ(safetensors_name(c10::kBFloat16), "BF16");
  EXPECT_EQ(safetensors_name(c10::kLong), "I64");
  EXPECT_EQ(hf_dtype_name(dtype_of_name("fp32")), "float32");
}

TEST(Dtype, UnknownNamesAreRefusedByName) {
  try {
    dtype_of_name("float32");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    EXPECT_NE(std::string(error.what()).find("float32"), std::string::npos) << error.what();
  }
  EXPECT_THROW(dtype_of_safetensors("F8_E4M3"), Error);
  EXPECT_THROW(safetensors_name(c10::kComplexFloat), Error);
}

TEST(Device, CpuIsAlwaysThereAndNonsenseIsRefused) {
  EXPECT_TRUE(select_device("cpu").is_cpu());
  EXPECT_NO_THROW(select_device("auto"));
  EXPECT_THROW(select_device("tpu"), Error);
}

}  // namespace
}  // namespace dga
