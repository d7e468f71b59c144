#include "kernels/attention/tensor_map.h"

#include <cudaTypedefs.h>

#include <stdexcept>
#include <string>

#include "kernels/common/check.h"

namespace dga::kernels {
namespace {

// Taken from the driver at run time, so that the program starts where there is no driver.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const auto function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    DGA_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess)
      throw std::runtime_error("the CUDA driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  return function;
}

CUtensorMap encode(CUtensorMapDataType type, const void* data, const cuuint64_t (&sizes)[4],
                   const cuuint64_t (&strides_bytes)[3], const cuuint32_t (&box)[4], CUtensorMapSwizzle swizzle) {
  CUtensorMap map;
  const cuuint32_t element_strides[4] = {1, 1, 1, 1};
  const CUresult result = encode_function()(&map, type, 4, const_cast<void*>(data), sizes, strides_bytes, box,
                                            element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error("cuTensorMapEncodeTiled failed with code " + std::to_string(static_cast<int>(result)) +
                             "; base addresses must be 16-byte aligned and strides multiples of 16 bytes");
  }
  return map;
}

// A dimension of size one is never stepped over, but its stride must still be a valid one.
cuuint64_t stride_bytes(int64_t stride, int64_t element_bytes) {
  return static_cast<cuuint64_t>(stride > 0 ? stride * element_bytes : 16);
}

}  // namespace

CUtensorMap make_tensor_map(const TensorRef& tensor, int64_t batch, int64_t rows, int64_t heads, int64_t head_dim,
                            int box_rows) {
  return encode(
      CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, tensor.data,
      {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(heads),
       static_cast<cuuint64_t>(batch)},
      {stride_bytes(tensor.row_stride, 2), stride_bytes(tensor.head_stride, 2), stride_bytes(tensor.batch_stride, 2)},
      {64, static_cast<cuuint32_t>(box_rows), 1, 1}, CU_TENSOR_MAP_SWIZZLE_128B);
}

CUtensorMap make_list_map(const TensorRef& list, int64_t rows, const AttentionInputs& inputs, int box_rows) {
  const Shape& shape = inputs.shape;
  return make_tensor_map(rows > 0 ? list : inputs.query, shape.batch, rows > 0 ? rows : 1, shape.kv_heads,
                         shape.head_dim, box_rows);
}

CUtensorMap make_bias_map(const float* bias, int64_t batch, int64_t heads, int64_t length, int64_t stride) {
  return encode(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, bias,
                {static_cast<cuuint64_t>(length), static_cast<cuuint64_t>(heads), static_cast<cuuint64_t>(batch), 1},
                {stride_bytes(stride, 4), stride_bytes(stride * heads, 4), stride_bytes(stride * heads * batch, 4)},
                {128, 1, 1, 1}, CU_TENSOR_MAP_SWIZZLE_NONE);
}

}  // namespace dga::kernels
