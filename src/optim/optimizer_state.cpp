#include "optim/optimizer_state.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "tensor/dtype.h"
#include "util/error.h"

namespace dga {
namespace {

int64_t blocks_of(int64_t numbers) { return (numbers + kMomentBlock - 1) / kMomentBlock; }

/// A part of a slot that lies in a held range.
struct HeldPiece {
  const FlatSlot* slot;
  int64_t first, count;  // numbers of the parameter
  int64_t at;            // place in the state
  int64_t flat() const { return slot->begin + first; }
  bool is_whole() const { return count == slot->count; }
};

std::vector<HeldPiece> held_pieces(const FlatLayout& layout, const std::vector<HeldRange>& ranges) {
  std::vector<HeldPiece> pieces;
  for (const FlatSlot& slot : layout.slots) {
    for (const HeldRange& range : ranges) {
      const int64_t begin = std::max(slot.begin, range.numbers.begin);
      const int64_t end = std::min(slot.begin + slot.count, range.numbers.end);
      if (begin >= end) continue;
      pieces.push_back({&slot, begin - slot.begin, end - begin, range.at + begin - range.numbers.begin});
    }
  }
  return pieces;
}

/// Calls visit(name, live tensor [numbers of the piece or of its blocks], whether it is of blocks) for each moment's
/// tensor of the piece.
void for_each_moment(const OptimizerState& state, const HeldPiece& piece,
                     const std::function<void(const std::string&, const at::Tensor&, bool)>& visit) {
  for (const auto& [name, moment] :
       {std::pair("exp_avg", &state.exp_avg), std::pair("exp_avg_sq", &state.exp_avg_sq)}) {
    visit(str(name, ".", piece.slot->name), moment->numbers.narrow(0, piece.at, piece.count), false);
    if (!moment->scales.defined()) continue;
    visit(str(name, "_scale.", piece.slot->name),
          moment->scales.narrow(0, piece.at / kMomentBlock, blocks_of(piece.count)), true);
  }
}

StatePiece make_piece(const OptimizerState& state, const HeldPiece& held) {
  const FlatSlot& slot = *held.slot;
  StatePiece piece{slot.name, slot.shape, held.first, held.count, {}};
  const std::vector<int64_t> shape = held.is_whole() ? slot.shape : std::vector<int64_t>{held.count};
  for_each_moment(state, held, [&](const std::string& name, const at::Tensor& live, bool of_blocks) {
    const at::Tensor part = of_blocks ? live : live.view(shape);
    piece.tensors[name] = {part.scalar_type(), part.sizes().vec(), [part] { return part.to(at::kCPU); }};
  });
  if (!state.weight_low.defined()) return piece;
  const at::Tensor high = state.weight.narrow(0, held.flat(), held.count).view(shape);
  const at::Tensor low = state.weight_low.narrow(0, held.at, held.count).view(shape);
  piece.tensors["master." + slot.name] = {at::kFloat, shape,
                                          [high, low] { return join_masters(high.to(at::kCPU), low.to(at::kCPU)); }};
  return piece;
}

/// Numbers [begin, end) of a saved tensor that should be of this type and shape.
at::Tensor read_saved(const SavedTensors& saved, const std::string& name, const std::vector<int64_t>& shape,
                      at::ScalarType type, FlatRange numbers) {
  const auto found = saved.find(name);
  DGA_CHECK_INPUT(found != saved.end(), "optimizer state lacks tensor ", name);
  const SavedTensor& tensor = found->second;
  DGA_CHECK_INPUT(tensor.shape == shape, "optimizer state ", name, " has shape ", at::IntArrayRef(tensor.shape),
                  ", the parameter ", at::IntArrayRef(shape));
  DGA_CHECK_INPUT(tensor.dtype == type, "optimizer state ", name, " is of type ", safetensors_name(tensor.dtype),
                  ", optimizer.moments asks for ", safetensors_name(type));
  return tensor.read(numbers.begin, numbers.end);
}

void restore_piece(const OptimizerState& state, const HeldPiece& piece, const SavedTensors& saved) {
  const FlatSlot& slot = *piece.slot;
  for_each_moment(state, piece, [&](const std::string& name, at::Tensor live, bool of_blocks) {
    const int64_t begin = of_blocks ? piece.first / kMomentBlock : piece.first;
    const std::vector<int64_t> shape = of_blocks ? std::vector<int64_t>{blocks_of(slot.count)} : slot.shape;
    live.copy_(read_saved(saved, name, shape, live.scalar_type(), {begin, begin + live.numel()}));
  });
  if (!state.weight_low.defined()) return;
  const at::Tensor master =
      read_saved(saved, "master." + slot.name, slot.shape, at::kFloat, {piece.first, piece.first + piece.count});
  const at::Tensor high = at::empty({piece.count}, at::kBFloat16), low = at::empty({piece.count}, at::kShort);
  split_masters(master, high, low);
  state.weight.narrow(0, piece.flat(), piece.count).copy_(high);
  state.weight_low.narrow(0, piece.at, piece.count).copy_(low);
}

}  // namespace

std::vector<StatePiece> pieces_of(const OptimizerState& state, const FlatLayout& layout,
                                  const std::vector<HeldRange>& ranges) {
  std::vector<StatePiece> pieces;
  for (const HeldPiece& held : held_pieces(layout, ranges)) pieces.push_back(make_piece(state, held));
  return pieces;
}

void restore_state(const OptimizerState& state, const FlatLayout& layout, const std::vector<HeldRange>& ranges,
                   const SavedTensors& saved) {
  const at::NoGradGuard no_grad;
  for (const HeldPiece& piece : held_pieces(layout, ranges)) restore_piece(state, piece, saved);
}

}  // namespace dga
