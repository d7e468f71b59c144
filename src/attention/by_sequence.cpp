#include "attention/by_sequence.h"

#include <ATen/ATen.h>

#include <vector>

#include "util/error.h"

namespace dga {

void check_heads(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  DGA_CHECK(q.dim() == 4 && k.dim() == 4 && k.sizes() == v.sizes() && q.size(0) == k.size(0) &&
                q.size(1) == k.size(1) && q.size(3) == k.size(3) && k.size(2) > 0 && q.size(2) % k.size(2) == 0 &&
                q.size(1) > 0,
            "attention: q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(), " do not fit each other");
  DGA_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(), "attention: q is ",
            q.scalar_type(), ", k ", k.scalar_type(), ", v ", v.scalar_type());
}

at::Tensor by_sequence(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceLayout& layout,
                       const SequenceAttention& attention) {
  check_heads(q, k, v);
  layout.check(q.size(0), q.size(1));
  const std::vector<SequenceSpan> spans = sequences(layout, q.size(1));
  std::vector<int64_t> lengths;
  for (const SequenceSpan& span : spans) lengths.push_back(span.length);
  // One split of all tokens, whose backward is one concatenation however many sequences there are.
  const auto split = [&lengths](const at::Tensor& x) { return x.flatten(0, 1).split_with_sizes(lengths); };
  const std::vector<at::Tensor> qs = split(q), ks = split(k), vs = split(v);
  std::vector<at::Tensor> outputs;
  for (size_t i = 0; i < spans.size(); ++i) outputs.push_back(attention(qs[i], ks[i], vs[i], spans[i]));
  return at::cat(outputs).view(q.sizes());
}

}  // namespace dga
