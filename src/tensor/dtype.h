#pragma once

#include <c10/core/ScalarType.h>

#include <string>

namespace dga {

/// Element type of a safetensors name ("F32", "BF16", "I64", ...). Throws an input error naming an unknown one.
c10::ScalarType dtype_of_safetensors(const std::string& name);
/// The name that safetensors files give an element type. Throws on types that the format or this program lacks.
std::string safetensors_name(c10::ScalarType dtype);

/// Element type of a config name: fp32, fp16, bf16 or fp64. Throws a config error naming an unknown one.
c10::ScalarType dtype_of_name(const std::string& name);
/// The name that Hugging Face configs give a floating type: float32, float16, bfloat16 or float64.
std::string hf_dtype_name(c10::ScalarType dtype);

}  // namespace dga
