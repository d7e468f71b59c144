#include "model/memory_config.h"

namespace dga {

void MemoryConfig::fields(config::Fields& f) {
  f.field(
      "recompute", recompute,
      "what the backward pass computes again: none (norms alone), selective (also the gate and up projections, never "
      "attention) or block (the layer, from its input)");
  f.field("recompute_layers", recompute_layers,
          "how many layers, from the first on, recompute; the others keep all they can. Absent: all",
          config::at_least(0));
  f.field("keep_attention", keep_attention,
          "under recompute: block, attention by the CUDA kernels: whether its output is kept, so that it never runs "
          "again; 2 bytes a token, layer and hidden unit");
  f.field(
      "offload", offload,
      "GPU: block_inputs keeps what recompute: block keeps of a layer (its input and, with keep_attention, attention's "
      "output) in pinned host memory, copied while the GPU computes; attention_inputs also keeps queries, keys and "
      "values there, so that their projections never run again");
  f.field("mlp_tile_tokens", mlp_tile_tokens,
          "tokens that go through the part of a layer behind attention at a time; less memory at long contexts. 0: all",
          config::at_least(0));
}

void MemoryConfig::check(config::Checker& c) const {
  c.require(offload == Offload::none || recompute == Recompute::block, "offload",
            "needs recompute: block, which keeps little else");
  c.require(!recompute_layers || recompute != Recompute::none, "recompute_layers",
            "needs recompute: selective or block");
}

Recompute MemoryConfig::of_layer(int64_t layer) const {
  return !recompute_layers || layer < *recompute_layers ? recompute : Recompute::none;
}

}  // namespace dga
