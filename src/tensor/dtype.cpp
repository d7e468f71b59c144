#include "tensor/dtype.h"

#include <array>

#include "util/error.h"

namespace dga {
namespace {

struct SafetensorsType {
  const char* name;
  c10::ScalarType dtype;
};
constexpr std::array kSafetensorsTypes = {
    SafetensorsType{"F64", c10::kDouble},    SafetensorsType{"F32", c10::kFloat}, SafetensorsType{"F16", c10::kHalf},
    SafetensorsType{"BF16", c10::kBFloat16}, SafetensorsType{"I64", c10::kLong},  SafetensorsType{"I32", c10::kInt},
    SafetensorsType{"I16", c10::kShort},     SafetensorsType{"I8", c10::kChar},   SafetensorsType{"U8", c10::kByte},
    SafetensorsType{"BOOL", c10::kBool},
};

struct FloatType {
  const char* name;
  const char* hf_name;
  c10::ScalarType dtype;
};
constexpr std::array kFloatTypes = {
    FloatType{"fp64", "float64", c10::kDouble},
    FloatType{"fp32", "float32", c10::kFloat},
    FloatType{"fp16", "float16", c10::kHalf},
    FloatType{"bf16", "bfloat16", c10::kBFloat16},
};

}  // namespace

c10::ScalarType dtype_of_safetensors(const std::string& name) {
  for (const auto& type : kSafetensorsTypes) {
    if (name == type.name) return type.dtype;
  }
  fail(ExitCode::input, "tensor type ", name, " is not supported");
}

std::string safetensors_name(c10::ScalarType dtype) {
  for (const auto& type : kSafetensorsTypes) {
    if (dtype == type.dtype) return type.name;
  }
  fail(ExitCode::failure, "safetensors files cannot hold elements of type ", c10::toString(dtype));
}

c10::ScalarType dtype_of_name(const std::string& name) {
  for (const auto& type : kFloatTypes) {
    if (name == type.name) return type.dtype;
  }
  fail(ExitCode::config, "dtype ", name, ": unknown; one of fp64, fp32, fp16, bf16");
}

std::string hf_dtype_name(c10::ScalarType dtype) {
  for (const auto& type : kFloatTypes) {
    if (dtype == type.dtype) return type.hf_name;
  }
  fail(ExitCode::failure, "no Hugging Face name for a model of type ", c10::toString(dtype));
}

}  // namespace dga
