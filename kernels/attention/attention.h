#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

// Attention over two key lists with two contiguous key ranges a query (docs/method.md, "Two ranges per query"): query t
// sees entries [first_begin(t), first_end(t)) of the compact list and [second_begin(t), second_end(t)) of the second
// list, under one softmax. Full causal attention, sink-plus-window attention and DGA differ only in the lists and
// bounds.
//
// Legend: B batch, L queries, H query heads, G KV heads, D head dim, C compact entries, N entries of the second list.
namespace dga::kernels {

/// A bf16 tensor [B, rows, heads, D] in device memory: D contiguous, the other strides in elements, multiples of 8,
/// base 16-byte aligned.
struct TensorRef {
  const void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
};

/// Per KV head and query, int32 [B, G, L] contiguous; each never decreases with t. first_begin may be null (zeros).
struct Bounds {
  const int32_t* first_begin = nullptr;
  const int32_t* first_end = nullptr;
  const int32_t* second_begin = nullptr;
  const int32_t* second_end = nullptr;
};

struct Shape {
  int64_t batch = 0;
  int64_t length = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t compact_length = 0;
  int64_t second_length = 0;
  int64_t second_span = 0;  // about how many queries see an entry of the second list; decides tile sizes alone
};

/// What both directions read.
struct AttentionInputs {
  Shape shape;
  TensorRef query;                       // [B, L, H, D]
  TensorRef compact_key, compact_value;  // [B, C, G, D]
  TensorRef second_key, second_value;    // [B, N, G, D]
  Bounds bounds;
  const float* compact_bias = nullptr;  // [B, G, bias_stride], added to the logits of compact entries; null for none
  int64_t bias_stride = 0;              // elements, a multiple of 4, at least C
  float scale = 0;                      // of the logits, usually 1/sqrt(D)
};

struct ForwardParams {
  AttentionInputs inputs;
  TensorRef output;              // [B, L, H, D], written
  float* log_sum_exp = nullptr;  // [B, H, L], written; natural logarithm
  int* counter = nullptr;        // one, for the kernel's use: which query tile is next
};

/// Empty if the kernels handle this shape on the current device, else the reason in one sentence.
std::string supports(const Shape& shape);

/// Computes output and log_sum_exp on `stream`; allocates and synchronises nothing. Throws std::runtime_error with the
/// failing call. Needs supports(shape) to be empty.
void forward(const ForwardParams& params, cudaStream_t stream);

struct BackwardParams {
  AttentionInputs inputs;
  TensorRef output;                                // [B, L, H, D], of the forward pass
  const float* log_sum_exp = nullptr;              // [B, H, L], of the forward pass
  TensorRef grad_output;                           // [B, L, H, D]
  TensorRef grad_query;                            // [B, L, H, D], written
  TensorRef grad_compact_key, grad_compact_value;  // [B, C, G, D], written
  TensorRef grad_second_key, grad_second_value;    // [B, N, G, D], written
  float* grad_bias = nullptr;                      // [B, G, bias_stride], written where compact_bias is given
  bool deterministic = false;  // same bits at every run; key tiles add to grad_query in a fixed order
  void* workspace = nullptr;   // backward_workspace_bytes(), 256-byte aligned
};

size_t backward_workspace_bytes(const Shape& shape, bool deterministic);

/// Computes all gradients on `stream`; allocates and synchronises nothing.
void backward(const BackwardParams& params, cudaStream_t stream);

}  // namespace dga::kernels
