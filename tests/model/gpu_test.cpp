#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/llama.h"
#include "model/weights_io.h"
#include "reference_llama.h"
#include "support/tensor_compare.h"
#include "test_folder.h"

namespace dga {
namespace {

using testing::compare;

class LlamaGpu : public FolderTest {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
    FolderTest::SetUp();
    at::manual_seed(7);
  }
};

std::vector<at::Tensor> gradients(const Llama& model, const at::Tensor& tokens, const SequenceLayout& layout,
                                  const MemoryConfig& memory) {
  for (const NamedParameter& parameter : model.parameters()) parameter.value.mutable_grad() = at::Tensor();
  model.forward(tokens.to(model.device()), layout, memory).square().sum().backward();
  std::vector<at::Tensor> all;
  for (const NamedParameter& parameter : model.parameters()) {
    if (parameter.value.grad().defined()) all.push_back(parameter.value.grad().to(at::kCPU));
  }
  return all;
}

TEST_F(LlamaGpu, EqualsTheCpuForwardAndBackward) {
  const Llama cpu(small_config(), {}, 5, at::kDouble, at::kCPU), gpu(small_config(), {}, 5, at::kDouble, at::kCUDA);
  const at::Tensor tokens = random_tokens(2, 13, 37);
  const SequenceLayout layout{{{0, 4}, {0}}, {0, 13}};
  const at::Tensor actual = gpu.forward(tokens.to(at::kCUDA), layout);
  EXPECT_TRUE(actual.is_cuda());
  EXPECT_TRUE(compare(actual.to(at::kCPU), cpu.forward(tokens, layout), 1e-9));
  const std::vector<at::Tensor> expected = gradients(cpu, tokens, layout, {});
  for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::block}) {
    MemoryConfig memory;
    memory.recompute = recompute;
    const std::vector<at::Tensor> found = gradients(gpu, tokens, layout, memory);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_TRUE(compare(found[i], expected[i], 1e-8 * expected[i].abs().max().item<double>())) << i;
    }
  }
}

TEST_F(LlamaGpu, DecodingEqualsOnePass) {
  const Llama model(small_config(), {}, 5, at::kDouble, at::kCUDA);
  const at::Tensor tokens = random_tokens(1, 9, 37).to(at::kCUDA);
  const at::Tensor whole = model.forward(tokens, SequenceLayout::whole_rows(1, 9)).detach();
  ModelCache cache = model.make_cache();
  const at::Tensor first = model.decode(tokens.narrow(1, 0, 5), cache);
  const at::Tensor rest = model.decode(tokens.narrow(1, 5, 4), cache);
  EXPECT_TRUE(compare(at::cat({first, rest}, 1), whole, 1e-10));
}

TEST_F(LlamaGpu, SavesAndLoads) {
  const Llama model(small_config(), {}, 5, at::kBFloat16, at::kCUDA);
  HfExport description;
  description.config = small_config();
  description.dtype = at::kBFloat16;
  save_hf(folder_ / "out", model.parameters(), description);
  const Llama loaded = Llama::load(folder_ / "out", small_config(), {}, 0, at::kBFloat16, at::kCUDA);
  const std::vector<NamedParameter> a = model.parameters(), b = loaded.parameters();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].value.equal(b[i].value)) << a[i].name;
  EXPECT_EQ(largest_logit_difference(model, loaded, 32), 0.0);
}

}  // namespace
}  // namespace dga
