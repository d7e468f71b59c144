#include "optim/flat_layout.h"

#include <ATen/ATen.h>

#include "ops/adamw.h"

namespace dga {

bool is_decayed(const OptimizerConfig& config, const TrainedParameter& parameter) {
  if (config.decay_norms_and_embeddings) return true;
  return parameter.value.dim() > 1 && !parameter.name.ends_with("embed_tokens.weight");
}

at::Tensor FlatSlot::view_in(const at::Tensor& flat) const {
  return flat.narrow(0, begin, count).view(at::IntArrayRef(shape));
}

at::Tensor FlatSlot::scales_in(const at::Tensor& flat_scales) const {
  return flat_scales.narrow(0, begin / kMomentBlock, (count + kMomentBlock - 1) / kMomentBlock);
}

FlatLayout::FlatLayout(const OptimizerConfig& config, const std::vector<TrainedParameter>& parameters) {
  for (const TrainedParameter& parameter : parameters) {
    slots.push_back({parameter.name, parameter.value.sizes().vec(), 0, parameter.value.numel()});
  }
  for (const bool decayed : {true, false}) {
    for (size_t i = 0; i < slots.size(); ++i) {
      if (is_decayed(config, parameters[i]) != decayed) continue;
      slots[i].begin = size;
      size += (slots[i].count + kMomentBlock - 1) / kMomentBlock * kMomentBlock;
    }
    if (decayed) decayed_end = size;
  }
}

}  // namespace dga
