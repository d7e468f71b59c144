// Checkpoints of W ranks read by W' ranks: every sharding level, type of moments and type of weights, bit for bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "checkpoint/reader.h"
#include "support/temp_folder.h"
#include "support/thread_communicator.h"
#include "train/trainable.h"
#include "train/training_state.h"
#include "util/error.h"
#include "util/hash.h"

namespace dga {
namespace {
namespace fs = std::filesystem;

using testing::run_ranks;
using testing::TempFolder;

/// Large enough that a bucket of 1 MiB cuts a parameter, and with parameters that are no multiple of 256 numbers.
LlamaConfig small_model() {
  LlamaConfig config;
  config.vocab_size = 5003;
  config.hidden_size = 72;
  config.intermediate_size = 40;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 18;
  return config;
}

struct Case {
  MomentsKind moments = MomentsKind::fp32;
  at::ScalarType dtype = at::kFloat;
  ShardLevel level = ShardLevel::optimizer;
};

/// Numbers that depend on the tensor's name and their place alone.
at::Tensor numbers_of(const std::string& name, const std::vector<int64_t>& shape, at::ScalarType type) {
  const auto salt = static_cast<int64_t>(std::stoul(hash_hex(name).substr(0, 6), nullptr, 16));
  const at::Tensor place = at::arange(c10::multiply_integers(shape), at::kLong) * 7919 + salt;
  if (type == at::kFloat) return (place.remainder(100003).to(at::kFloat) / 1000 - 50).view(shape);
  const at::Tensor small = place.remainder(251);
  if (type == at::kBFloat16) return (small.to(at::kFloat) / 64).to(type).view(shape);
  return (type == at::kChar ? small - 125 : small).to(type).view(shape);
}

/// What a checkpoint should hold of the trained parameters.
NamedTensors expected_state(const Case& c, const std::vector<TrainedParameter>& parameters) {
  NamedTensors state;
  const auto add = [&](const std::string& name, const std::vector<int64_t>& shape, at::ScalarType type) {
    state[name] = numbers_of(name, shape, type);
  };
  const bool small = c.moments == MomentsKind::int8;
  const at::ScalarType wide = c.moments == MomentsKind::bf16 ? at::kBFloat16 : at::kFloat;
  for (const TrainedParameter& parameter : parameters) {
    const std::vector<int64_t> shape = parameter.value.sizes().vec();
    add("exp_avg." + parameter.name, shape, small ? at::kChar : wide);
    add("exp_avg_sq." + parameter.name, shape, small ? at::kByte : wide);
    if (c.dtype == at::kBFloat16) add("master." + parameter.name, shape, at::kFloat);
    if (!small) continue;
    const std::vector<int64_t> blocks = {(parameter.value.numel() + 255) / 256};
    add("exp_avg_scale." + parameter.name, blocks, at::kFloat);
    add("exp_avg_sq_scale." + parameter.name, blocks, at::kFloat);
  }
  return state;
}

/// One rank's model and optimizer.
struct Replica {
  Llama model;
  std::vector<TrainedParameter> trained;
  AdamW optimizer;

  Replica(const Case& c, Communicator& ranks, const std::vector<std::string>& patterns, uint64_t seed)
      : model(small_model(), AttentionConfig(), seed, c.dtype, at::kCPU),
        trained(select_trainable(model.parameters(), patterns)),
        optimizer(config_of(c), 1, trained, GradientSum::as_weights, parallel(c, ranks)) {}

  static OptimizerConfig config_of(const Case& c) {
    OptimizerConfig config;
    config.moments = c.moments;
    return config;
  }
  static DataParallel parallel(const Case& c, Communicator& ranks) {
    DataParallel parallel;
    parallel.ranks = &ranks;
    parallel.level = c.level;
    parallel.bucket_bytes = 1 << 20;
    return parallel;
  }

  /// The expected state, and weights that belong to its masters.
  void fill(const Case& c) {
    const at::NoGradGuard no_grad;
    const NamedTensors state = expected_state(c, trained);
    for (const NamedParameter& parameter : model.parameters()) {
      const auto master = state.find("master." + parameter.name);
      const std::vector<int64_t> shape = parameter.value.sizes().vec();
      if (master == state.end()) {
        parameter.value.copy_(numbers_of(parameter.name, shape, at::kFloat));
        continue;
      }
      const at::Tensor low = at::empty(shape, at::kShort), high = at::empty(shape, at::kBFloat16);
      split_masters(master->second, high, low);
      parameter.value.copy_(high);
    }
    optimizer.restore(as_saved(state), 3);
  }
};

const std::vector<std::string> kAll = {"*"}, kSome = {"*layers.0.mlp*", "*norm*", "*q_proj*"};

/// Writes step 5 as `world_size` ranks.
void write(const fs::path& root, const Case& c, int64_t world_size, const std::vector<std::string>& patterns,
           Snapshot snapshot = Snapshot::copied) {
  run_ranks(world_size, [&](Communicator& ranks) {
    Replica replica(c, ranks, patterns, 1);
    replica.fill(c);
    TrainingState state;
    state.step = 5;
    state.optimizer_updates = 3;
    HfExport description;
    description.config = replica.model.config();
    description.dtype = c.dtype;
    const CheckpointContent content = make_checkpoint(state, replica.model, description, replica.optimizer, snapshot,
                                                      {ranks.rank(), ranks.world_size()});
    if (snapshot == Snapshot::copied) {  // training goes on before the writer comes to it
      const at::NoGradGuard no_grad;
      for (const NamedParameter& parameter : replica.model.parameters()) parameter.value.zero_();
      replica.optimizer.state().exp_avg.numbers.zero_();
      replica.optimizer.state().exp_avg_sq.numbers.zero_();
    }
    write_checkpoint(root, content, ranks, "write");
  });
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.numel() != b.numel()) return false;
  const at::Tensor left = a.contiguous().view(-1), right = b.contiguous().view(-1);
  return std::memcmp(left.const_data_ptr(), right.const_data_ptr(), left.nbytes()) == 0;
}

/// Reads step 5 as `world_size` ranks and compares everything.
void expect_restored(const fs::path& root, const Case& c, int64_t world_size,
                     const std::vector<std::string>& patterns) {
  std::mutex mutex;
  std::map<std::string, int64_t> seen;  // numbers of each tensor, over the ranks
  run_ranks(world_size, [&](Communicator& ranks) {
    const auto found = newest_complete_checkpoint(root, ranks, "find");
    ASSERT_TRUE(found.has_value());
    const auto single = make_single_communicator();
    Replica replica(c, ranks, patterns, 2), filled(c, *single, patterns, 3);
    filled.fill(c);
    restore_tensors(found->path, read_training_state(found->path), replica.model, replica.optimizer);
    EXPECT_EQ(replica.optimizer.updates(), 3);
    const std::vector<NamedParameter> weights = replica.model.parameters(), expected = filled.model.parameters();
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_TRUE(same_bits(weights[i].value.detach(), expected[i].value.detach())) << weights[i].name;
    }
    const NamedTensors state = expected_state(c, replica.trained);
    for (const StatePiece& piece : replica.optimizer.owned_pieces(replica.optimizer.state())) {
      for (const auto& [name, source] : piece.tensors) {
        const at::Tensor whole = state.at(name).view(-1), part = source.make().view(-1);
        const int64_t first = name.find("_scale.") != std::string::npos ? piece.first / 256 : piece.first;
        EXPECT_TRUE(same_bits(part, whole.narrow(0, first, part.numel()))) << name << " from " << first;
        const std::lock_guard lock(mutex);
        seen[name] += part.numel();
      }
    }
  });
  const auto single = make_single_communicator();
  Replica alone(c, *single, patterns, 1);
  for (const auto& [name, tensor] : expected_state(c, alone.trained)) EXPECT_EQ(seen[name], tensor.numel()) << name;
}

TEST(RanksCheckpoint, AnyNumberOfRanksReadsThatOfAny) {
  for (const MomentsKind moments : {MomentsKind::fp32, MomentsKind::bf16, MomentsKind::int8}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const int64_t before : {1, 2, 4}) {
        const Case c{moments, dtype, before == 2 ? ShardLevel::optimizer_gradients : ShardLevel::optimizer};
        const TempFolder root;
        write(root.path(), c, before, kAll);
        for (const int64_t after : {1, 2, 4}) {
          SCOPED_TRACE(
              str("moments ", static_cast<int>(moments), " ", c10::toString(dtype), " ", before, " to ", after));
          expect_restored(root.path(), {moments, dtype, ShardLevel::optimizer}, after, kAll);
        }
      }
    }
  }
}

TEST(RanksCheckpoint, AnyLevelReadsThatOfAny) {
  const std::vector<ShardLevel> levels = {ShardLevel::none, ShardLevel::optimizer, ShardLevel::optimizer_gradients};
  for (const ShardLevel before : levels) {
    const TempFolder root;
    write(root.path(), {MomentsKind::int8, at::kBFloat16, before}, 2, kSome, Snapshot::live);
    for (const ShardLevel after : levels) {
      for (const int64_t world_size : {2, 4}) {
        SCOPED_TRACE(str("level ", static_cast<int>(before), " to ", static_cast<int>(after), " on ", world_size));
        expect_restored(root.path(), {MomentsKind::int8, at::kBFloat16, after}, world_size, kSome);
      }
    }
  }
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

TEST(RanksCheckpoint, EveryRankWritesItsPart) {
  for (const ShardLevel level : {ShardLevel::none, ShardLevel::optimizer}) {
    const TempFolder root;
    write(root.path(), {MomentsKind::fp32, at::kFloat, level}, 4, kAll);
    const fs::path folder = root.path() / "step-5";
    std::set<std::string> expected = {"config.json", "manifest.json", "model.safetensors.index.json", "state.json"};
    uintmax_t smallest = UINTMAX_MAX, largest = 0;
    for (int rank = 1; rank <= 4; ++rank) {
      expected.insert(str("model-0000", rank, "-of-00004.safetensors"));
      const std::string name = str("optimizer-0000", rank, "-of-00004.safetensors");
      expected.insert(name);
      smallest = std::min(smallest, fs::file_size(folder / name));
      largest = std::max(largest, fs::file_size(folder / name));
    }
    for (const char* other : {"generation_config.json"}) {
      if (fs::exists(folder / other)) expected.insert(other);
    }
    EXPECT_EQ(names_in(folder), expected);
    EXPECT_LT(largest, smallest + smallest / 20);
  }
  const TempFolder root;
  write(root.path(), {}, 1, kAll);
  EXPECT_TRUE(names_in(root.path() / "step-5").contains("optimizer.safetensors"));
  EXPECT_TRUE(names_in(root.path() / "step-5").contains("model.safetensors"));
}

TEST(RanksCheckpoint, OtherMomentsAreRefused) {
  const TempFolder root;
  write(root.path(), {MomentsKind::fp32}, 2, kAll);
  const auto work = [&](Communicator& ranks) {
    Replica replica({MomentsKind::bf16}, ranks, kAll, 1);
    restore_tensors(root.path() / "step-5", {}, replica.model, replica.optimizer);
  };
  try {
    run_ranks(2, work);
    ADD_FAILURE() << "restored";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("optimizer.moments"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace dga
