#include "ops/two_range_attention.h"

#include <ATen/ATen.h>
#include <torch/autograd.h>

#include <array>
#include <limits>

#include "ops/compute_type.h"
#include "ops/two_range_chunks.h"
#include "util/error.h"

// Inside: T queries of a chunk, r = H / G, rows of a KV head are the T * r pairs (query, head), query outermost;
// E = entries of both lists that the chunk sees, those of the first list in front.
namespace dga {
namespace {

using at::indexing::Slice;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What both passes know about one call.
struct Problem {
  at::Tensor q;  // [T, H, D]
  TwoRangeKeys keys;
  TwoRangeBounds bounds;
  TwoRangeOptions options;

  int64_t kv_heads() const { return keys.first_keys.size(0); }
  int64_t heads_per_kv() const { return q.size(1) / kv_heads(); }
  at::ScalarType type() const { return compute_type(q.scalar_type()); }
};

std::vector<QueryChunk> chunks_of(const Problem& problem) {
  // On a CPU few queries keep the logits in the cache and waste little where a range ends; on a GPU launches count.
  const bool on_cpu = problem.q.is_cpu();
  const int64_t standard = on_cpu ? int64_t{64} << 20 : int64_t{256} << 20;
  const int64_t chunk_bytes = problem.options.chunk_bytes > 0 ? problem.options.chunk_bytes : standard;
  const int64_t element_bytes = static_cast<int64_t>(c10::elementSize(problem.type()));
  return query_chunks(problem.bounds, {problem.q.size(1), element_bytes, chunk_bytes, on_cpu ? 64 : 2048});
}

// The rows [G, T * r, width] of some queries of x [T, H, width], in the compute type.
at::Tensor rows_of(const Problem& problem, const at::Tensor& x, Interval queries) {
  const int64_t kv_heads = problem.kv_heads(), repeat = problem.heads_per_kv(), width = x.size(2);
  return x.slice(0, queries.begin, queries.end)
      .view({queries.size(), kv_heads, repeat, width})
      .permute({1, 0, 2, 3})
      .reshape({kv_heads, queries.size() * repeat, width})
      .to(problem.type());
}

// Writes rows [G, T * r, width] back to their queries of x [T, H, width].
void put_rows(const Problem& problem, const at::Tensor& rows, Interval queries, const at::Tensor& x) {
  const int64_t kv_heads = problem.kv_heads(), repeat = problem.heads_per_kv(), width = x.size(2);
  x.slice(0, queries.begin, queries.end)
      .view({queries.size(), kv_heads, repeat, width})
      .copy_(rows.view({kv_heads, queries.size(), repeat, width}).permute({1, 0, 2, 3}));
}

// The entries that a chunk sees of both lists, in the compute type: [G, E, D].
at::Tensor entries_of(const Problem& problem, const at::Tensor& first, const at::Tensor& second,
                      const QueryChunk& chunk) {
  const at::Tensor a = first.slice(1, chunk.first.seen.begin, chunk.first.seen.end).to(problem.type());
  if (chunk.second.seen.size() == 0) return a;
  const at::Tensor b = second.slice(1, chunk.second.seen.begin, chunk.second.seen.end).to(problem.type());
  return chunk.first.seen.size() == 0 ? b : at::cat({a, b}, 1);
}

// Sets logits [G, T, r, E] to -infinity where a query does not see an entry. Entry i of the list has column
// i - range.seen.begin + column; the entries of range.whole need no mask.
void mask_range(const at::Tensor& logits, const ChunkRange& range, int64_t column, Interval queries,
                const at::Tensor& begin, const at::Tensor& end) {
  const std::array<Interval, 2> edges = {Interval{range.seen.begin, range.whole.begin},
                                         Interval{range.whole.end, range.seen.end}};
  for (const Interval& edge : edges) {
    if (edge.size() == 0) continue;
    const at::Tensor entry = at::arange(edge.begin, edge.end, end.options());
    at::Tensor hidden = entry >= end.slice(1, queries.begin, queries.end).unsqueeze(2);  // [G, T, edge]
    if (begin.defined()) hidden.logical_or_(entry < begin.slice(1, queries.begin, queries.end).unsqueeze(2));
    const int64_t shift = column - range.seen.begin;
    logits.slice(3, edge.begin + shift, edge.end + shift).masked_fill_(hidden.unsqueeze(2), -kInfinity);
  }
}

// Logits [G, T * r, E] of a chunk for rows that are already scaled.
at::Tensor chunk_logits(const Problem& problem, const QueryChunk& chunk, const at::Tensor& scaled_rows,
                        const at::Tensor& entry_keys) {
  at::Tensor logits = at::bmm(scaled_rows, entry_keys.transpose(1, 2));
  const int64_t first = chunk.first.seen.size();
  if (problem.keys.first_bias.defined() && first > 0) {
    logits.slice(2, 0, first)
        .add_(problem.keys.first_bias.slice(1, chunk.first.seen.begin, chunk.first.seen.end).unsqueeze(1));
  }
  const at::Tensor per_query =
      logits.view({problem.kv_heads(), chunk.queries.size(), problem.heads_per_kv(), logits.size(2)});
  const TwoRangeBounds& bounds = problem.bounds;
  mask_range(per_query, chunk.first, 0, chunk.queries, bounds.first_begin, bounds.first_end);
  if (chunk.second.seen.size() > 0) {
    mask_range(per_query, chunk.second, first, chunk.queries, bounds.second_begin, bounds.second_end);
  }
  return logits;
}

// The log-sum-exp of the logits of each query and head, kept as its two parts so that fp32 loses nothing.
struct RowSums {
  at::Tensor top;  // [T, H, 1], the largest logit; 0 where a query sees nothing
  at::Tensor sum;  // [T, H, 1], of exp(logit - top); 1 where a query sees nothing
};

struct Attended {
  at::Tensor out;  // [T, H, D], 0 where a query sees nothing
  RowSums rows;
};

Attended attend(const Problem& problem) {
  const auto column = [&problem](double value) {
    return at::full({problem.q.size(0), problem.q.size(1), 1}, value, problem.q.options().dtype(problem.type()));
  };
  Attended result{at::zeros_like(problem.q, at::MemoryFormat::Contiguous), {column(0), column(1)}};
  for (const QueryChunk& chunk : chunks_of(problem)) {
    if (chunk.first.seen.size() + chunk.second.seen.size() == 0) continue;
    const at::Tensor entry_keys = entries_of(problem, problem.keys.first_keys, problem.keys.second_keys, chunk);
    const at::Tensor entry_values = entries_of(problem, problem.keys.first_values, problem.keys.second_values, chunk);
    const at::Tensor rows = rows_of(problem, problem.q, chunk.queries).mul(problem.options.scale);
    at::Tensor weights = chunk_logits(problem, chunk, rows, entry_keys);
    const at::Tensor top = weights.amax(2, true);  // [G, T * r, 1]
    top.masked_fill_(top.eq(-kInfinity), 0);
    weights.sub_(top).exp_();
    const at::Tensor sum = weights.sum(2, true);
    sum.masked_fill_(sum.eq(0), 1);
    put_rows(problem, at::bmm(weights, entry_values).div_(sum), chunk.queries, result.out);
    put_rows(problem, top, chunk.queries, result.rows.top);
    put_rows(problem, sum, chunk.queries, result.rows.sum);
  }
  return result;
}

// Gradients in the compute type; what is not asked for stays undefined.
struct Gradients {
  at::Tensor q, first_keys, first_values, first_bias, second_keys, second_values;
};

// Adds the gradient of a chunk's entries [G, E, width] to those of both lists.
void add_entries(const QueryChunk& chunk, const at::Tensor& gradient, const at::Tensor& first,
                 const at::Tensor& second) {
  const int64_t count = chunk.first.seen.size();
  if (count > 0) first.slice(1, chunk.first.seen.begin, chunk.first.seen.end).add_(gradient.slice(1, 0, count));
  if (chunk.second.seen.size() > 0) {
    second.slice(1, chunk.second.seen.begin, chunk.second.seen.end).add_(gradient.slice(1, count));
  }
}

// With E = exp(logits - top), P = E / sum and a = dout / sum: dvalues = P' dout = E' a,
// dlogits = P * (dout values' - delta) = E * (a values' - delta / sum), where delta is the row sum of P * (dout
// values'), dq = scale * dlogits keys, dkeys = scale * dlogits' q, dbias = sum over rows of dlogits.
void add_chunk_gradients(const Problem& problem, const QueryChunk& chunk, const at::Tensor& dout,
                         const RowSums& row_sums, const Gradients& gradients) {
  const at::Tensor entry_keys = entries_of(problem, problem.keys.first_keys, problem.keys.second_keys, chunk);
  const at::Tensor entry_values = entries_of(problem, problem.keys.first_values, problem.keys.second_values, chunk);
  const at::Tensor rows = rows_of(problem, problem.q, chunk.queries).mul(problem.options.scale);
  const at::Tensor sum = rows_of(problem, row_sums.sum, chunk.queries);
  const at::Tensor a = rows_of(problem, dout, chunk.queries).div(sum);
  at::Tensor weights = chunk_logits(problem, chunk, rows, entry_keys);
  weights.sub_(rows_of(problem, row_sums.top, chunk.queries)).exp_();
  add_entries(chunk, at::bmm(weights.transpose(1, 2), a), gradients.first_values, gradients.second_values);
  const at::Tensor dlogits = at::bmm(a, entry_values.transpose(1, 2)).mul_(weights);
  const at::Tensor delta = dlogits.sum(2, true);
  dlogits.addcmul_(weights, delta.div_(sum), -1);
  put_rows(problem, at::bmm(dlogits, entry_keys).mul_(problem.options.scale), chunk.queries, gradients.q);
  add_entries(chunk, at::bmm(dlogits.transpose(1, 2), rows), gradients.first_keys, gradients.second_keys);
  if (gradients.first_bias.defined() && chunk.first.seen.size() > 0) {
    gradients.first_bias.slice(1, chunk.first.seen.begin, chunk.first.seen.end)
        .add_(dlogits.slice(2, 0, chunk.first.seen.size()).sum(1));
  }
}

Gradients gradients_of(const Problem& problem, const at::Tensor& dout, const RowSums& row_sums) {
  const auto zeros = [&problem](const at::Tensor& x) {
    return x.defined() ? at::zeros(x.sizes(), x.options().dtype(problem.type())) : at::Tensor();
  };
  const TwoRangeKeys& keys = problem.keys;
  Gradients gradients{zeros(problem.q),       zeros(keys.first_keys),  zeros(keys.first_values),
                      zeros(keys.first_bias), zeros(keys.second_keys), zeros(keys.second_values)};
  for (const QueryChunk& chunk : chunks_of(problem)) {
    if (chunk.first.seen.size() + chunk.second.seen.size() == 0) continue;
    add_chunk_gradients(problem, chunk, dout, row_sums, gradients);
  }
  return gradients;
}

using OptionalTensor = std::optional<at::Tensor>;

OptionalTensor optional(const at::Tensor& x) { return x.defined() ? OptionalTensor(x) : std::nullopt; }

struct TwoRangeAttention : torch::autograd::Function<TwoRangeAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& first_keys,
                            const at::Tensor& first_values, const OptionalTensor& first_bias,
                            const OptionalTensor& second_keys, const OptionalTensor& second_values,
                            const TwoRangeBounds& bounds, const TwoRangeOptions& options) {
    const auto tensor = [](const OptionalTensor& x) { return x.value_or(at::Tensor()); };
    const Problem problem{q.contiguous(),
                          {first_keys, first_values, tensor(first_bias), tensor(second_keys), tensor(second_values)},
                          bounds,
                          options};
    const Attended attended = attend(problem);
    const TwoRangeKeys& keys = problem.keys;
    context->save_for_backward({problem.q, keys.first_keys, keys.first_values, keys.first_bias, keys.second_keys,
                                keys.second_values, bounds.first_begin, bounds.first_end, bounds.second_begin,
                                bounds.second_end, attended.rows.top, attended.rows.sum});
    context->saved_data["scale"] = options.scale;
    context->saved_data["chunk_bytes"] = options.chunk_bytes;
    return attended.out;
  }

  static variable_list backward(AutogradContext* context, variable_list output_gradients) {
    const variable_list s = context->get_saved_variables();
    const Problem problem{s[0],
                          {s[1], s[2], s[3], s[4], s[5]},
                          {s[6], s[7], s[8], s[9]},
                          {context->saved_data["scale"].toDouble(), context->saved_data["chunk_bytes"].toInt()}};
    const Gradients g = gradients_of(problem, output_gradients[0].contiguous(), {s[10], s[11]});
    const auto cast = [](const at::Tensor& gradient, const at::Tensor& input) {
      return gradient.defined() ? gradient.to(input.scalar_type()) : gradient;
    };
    return {cast(g.q, s[0]),
            cast(g.first_keys, s[1]),
            cast(g.first_values, s[2]),
            cast(g.first_bias, s[3]),
            cast(g.second_keys, s[4]),
            cast(g.second_values, s[5]),
            at::Tensor(),
            at::Tensor()};
  }
};

void check_list(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const char* name) {
  DGA_CHECK(keys.dim() == 3 && keys.sizes() == values.sizes() && keys.size(2) == q.size(2) && keys.size(0) > 0 &&
                q.size(1) % keys.size(0) == 0,
            "two_range_attention: ", name, " keys ", keys.sizes(), " and values ", values.sizes(), " do not fit q ",
            q.sizes());
  DGA_CHECK(keys.scalar_type() == q.scalar_type() && values.scalar_type() == q.scalar_type(),
            "two_range_attention: q is ", q.scalar_type(), ", ", name, " keys ", keys.scalar_type(), ", values ",
            values.scalar_type());
}

void check_bound(const at::Tensor& bound, int64_t kv_heads, int64_t queries, const char* name) {
  DGA_CHECK(bound.defined() && bound.scalar_type() == at::kLong && bound.dim() == 2 && bound.size(0) == kv_heads &&
                bound.size(1) == queries,
            "two_range_attention: bound ", name, " must be int64 [", kv_heads, ", ", queries, "]");
}

}  // namespace

at::Tensor two_range_attention(const at::Tensor& q, const TwoRangeKeys& keys, const TwoRangeBounds& bounds,
                               const TwoRangeOptions& options) {
  DGA_CHECK(q.dim() == 3, "two_range_attention: q must be [T, H, D], got ", q.sizes());
  check_list(q, keys.first_keys, keys.first_values, "first");
  const int64_t kv_heads = keys.first_keys.size(0);
  check_bound(bounds.first_end, kv_heads, q.size(0), "first_end");
  if (bounds.first_begin.defined()) check_bound(bounds.first_begin, kv_heads, q.size(0), "first_begin");
  if (keys.first_bias.defined()) {
    DGA_CHECK(keys.first_bias.sizes() == keys.first_keys.sizes().slice(0, 2) &&
                  keys.first_bias.scalar_type() == compute_type(q.scalar_type()),
              "two_range_attention: bias ", keys.first_bias.sizes(), " ", keys.first_bias.scalar_type(),
              " does not fit keys ", keys.first_keys.sizes());
  }
  if (keys.second_keys.defined()) {
    check_list(q, keys.second_keys, keys.second_values, "second");
    check_bound(bounds.second_begin, kv_heads, q.size(0), "second_begin");
    check_bound(bounds.second_end, kv_heads, q.size(0), "second_end");
  } else {
    DGA_CHECK(!bounds.second_begin.defined() && !bounds.second_end.defined(),
              "two_range_attention: bounds of a second list without its keys");
  }
  return TwoRangeAttention::apply(q, keys.first_keys, keys.first_values, optional(keys.first_bias),
                                  optional(keys.second_keys), optional(keys.second_values), bounds, options);
}

}  // namespace dga
