#include "config/sample_config.h"

namespace dga::config {
namespace {

TEST(ConfigReference, ListsEveryFieldWithTypeDefaultBoundsAndMeaning) {
  struct Root {
    Model model;
    Optimizer optimizer;
    std::vector<Source> sources;
    void fields(Fields& f) {
      f.section("model", model, "The model.");
      f.section("optimizer", optimizer, "The optimizer.");
    }
  } root;
  EXPECT_EQ(reference([&](Fields& f) { root.fields(f); }),
            "## model\n"
            "\n"
            "The model.\n"
            "\n"
            "| field | type | default | meaning |\n"
            "| --- | --- | --- | --- |\n"
            "| `model.hidden_size` | whole number, at least 1 | `64` | width |\n"
            "| `model.num_heads` | whole number, at least 1 and at most 256 | `4` | heads |\n"
            "| `model.tied` | true or false | `false` | tie the embeddings |\n"
            "| `model.rope` | section | | rotary embedding |\n"
            "| `model.rope.factor` | number, at least 1 | `1` | new length / trained length |\n"
            "| `model.rope.original_length` | whole number or null, at least 1 | null | trained length |\n"
            "\n"
            "## optimizer\n"
            "\n"
            "The optimizer.\n"
            "\n"
            "| field | type | default | meaning |\n"
            "| --- | --- | --- | --- |\n"
            "| `optimizer.learning_rate` | number, above 0 | `0.0003` | highest rate |\n"
            "| `optimizer.betas` | list of numbers, at least 0 and at most 1 | `[0.9, 0.95]` | decays |\n"
            "| `optimizer.milestones` | list of whole numbers, at least 1 | `[]` | steps |\n"
            "| `optimizer.clip_norm` | number or null, above 0 | `1` | global norm |\n"
            "| `optimizer.shape` | `constant`, `linear` or `cosine` | `cosine` | how the rate falls |\n");
}

TEST(ConfigReference, ListsOfMappingsShowTheFieldsOfAnItem) {
  struct Data {
    std::vector<Source> sources;
    void fields(Fields& f) { f.list("sources", sources, "the text"); }
  };
  struct Root {
    Data data;
    void fields(Fields& f) { f.section("data", data, "Text."); }
  } root;
  const std::string text = reference([&](Fields& f) { root.fields(f); });
  EXPECT_NE(text.find("| `data.sources` | list of mappings | `[]` | the text |\n"
                      "| `data.sources[].name` | text | `\"\"` | unique name |\n"
                      "| `data.sources[].paths` | list of texts | `[]` | globs |\n"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace dga::config
