#include "train/config_difference.h"

#include <gtest/gtest.h>

#include "util/error.h"

namespace dga {
namespace {

RunConfig config_with_source(const std::string& path) {
  RunConfig config;
  config.data.sources.emplace_back();
  config.data.sources[0].name = "web";
  config.data.sources[0].paths = {path};
  return config;
}

TEST(ConfigDifference, FlattenNamesEveryKindOfField) {
  const auto values = flatten(config_with_source("a.jsonl"));
  EXPECT_EQ(values.at("run.seed"), "1234");
  EXPECT_EQ(values.at("train.loss_chunk_tokens"), "0");
  EXPECT_EQ(values.at("optimizer.betas"), "[0.9, 0.95]");
  EXPECT_EQ(values.at("data.sources[0].paths"), "[a.jsonl]");
  EXPECT_EQ(values.at("data.sources[0].separator"), "null");
  EXPECT_EQ(values.at("schedule.kind"), "cosine");
  EXPECT_EQ(values.at("train.skip_outliers.window"), "128");
}

TEST(ConfigDifference, EqualConfigsHaveNone) {
  const auto values = flatten(config_with_source("a.jsonl"));
  EXPECT_TRUE(compare_configs(values, flatten(config_with_source("a.jsonl"))).empty());
}

TEST(ConfigDifference, NamesChangedAddedAndRemovedFields) {
  RunConfig after = config_with_source("b.jsonl");
  after.data.sources.emplace_back();
  after.data.sources[1].name = "code";
  const auto before_values = flatten(config_with_source("a.jsonl")), after_values = flatten(after);
  std::map<std::string, std::pair<std::string, std::string>> changes;
  for (const ConfigChange& change : compare_configs(before_values, after_values)) {
    changes[change.path] = {change.before, change.after};
  }
  EXPECT_EQ(changes.at("data.sources[0].paths"), (std::pair<std::string, std::string>("[a.jsonl]", "[b.jsonl]")));
  EXPECT_EQ(changes.at("data.sources[1].name"), (std::pair<std::string, std::string>("(absent)", "code")));
  EXPECT_EQ(compare_configs(after_values, before_values).size(), changes.size());
}

TEST(ConfigDifference, RefusesWhatChangesTheNumbers) {
  const RunConfig before = config_with_source("a.jsonl");
  const auto change = [&](auto edit) {
    RunConfig after = before;
    edit(after);
    return check_resumable(flatten(before), after);
  };
  EXPECT_THROW(change([](RunConfig& c) { c.optimizer.learning_rate = 1; }), Error);
  EXPECT_THROW(change([](RunConfig& c) { c.data.context_length = 7; }), Error);
  EXPECT_THROW(change([](RunConfig& c) { c.data.sources[0].weight = 2; }), Error);
  EXPECT_THROW(change([](RunConfig& c) { c.train.global_batch_size = 16; }), Error);
  EXPECT_THROW(change([](RunConfig& c) { c.attention.kind = AttentionKind::dga; }), Error);
  EXPECT_THROW(change([](RunConfig& c) { c.model.hidden_size = 8; }), Error);
  EXPECT_THROW(change([](RunConfig& c) { c.run.seed = 8; }), Error);
  EXPECT_THROW(change([](RunConfig& c) { c.train.trainable = {"*norm*"}; }), Error);
  EXPECT_THROW(change([](RunConfig& c) { c.parallel.reduce = ReduceType::bf16; }), Error);

  EXPECT_EQ(change([](RunConfig& c) { c.train.steps = 5000; }).size(), 1U);
  EXPECT_EQ(change([](RunConfig& c) { c.log.every_steps = 1; }).size(), 1U);
  EXPECT_EQ(change([](RunConfig& c) { c.checkpoint.keep_every = 100; }).size(), 1U);
  EXPECT_EQ(change([](RunConfig& c) { c.eval.every_steps = 50; }).size(), 1U);
  EXPECT_EQ(change([](RunConfig& c) { c.parallel.shard = ShardLevel::none; }).size(), 1U);
  EXPECT_EQ(change([](RunConfig& c) { c.attention.keep_lists = false; }).size(), 1U);
  EXPECT_EQ(change([](RunConfig& c) { c.data.skip = {{10, 20}}; }).size(), 2U);
  EXPECT_EQ(change([](RunConfig& c) { c.train.skip_outliers.factor = 4; }).size(), 1U);
  EXPECT_TRUE(change([](RunConfig&) {}).empty());
}

TEST(ConfigDifference, AFieldYoungerThanTheCheckpointCountsAsItsDefault) {
  RunConfig config = config_with_source("a.jsonl");
  std::map<std::string, std::string> saved = flatten(config);
  EXPECT_EQ(saved.erase("optimizer.moments"), 1U);
  EXPECT_TRUE(check_resumable(saved, config).empty());
  config.optimizer.moments = MomentsKind::int8;
  EXPECT_THROW(check_resumable(saved, config), Error);
}

TEST(ConfigDifference, TheRefusalNamesEveryField) {
  const RunConfig before = config_with_source("a.jsonl");
  RunConfig after = before;
  after.optimizer.learning_rate = 0.5;
  after.data.context_length = 99;
  after.log.every_steps = 3;
  try {
    check_resumable(flatten(before), after);
    FAIL() << "accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), ExitCode::config);
    EXPECT_NE(message.find("optimizer.learning_rate was"), std::string::npos) << message;
    EXPECT_NE(message.find("data.context_length was 4096 in the checkpoint, is now 99"), std::string::npos) << message;
    EXPECT_EQ(message.find("log.every_steps"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace dga
