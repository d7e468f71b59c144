#include "eval/config.h"

#include <gtest/gtest.h>

#include <string>

#include "config/load.h"

namespace dga {
namespace {

/// Reads assignments such as "stride=4" into a config; the error's text where there is one.
std::string read_error(const std::vector<std::string>& assignments) {
  EvalConfig config;
  try {
    config::Document("", assignments).read_into(config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::config);
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(EvalConfig, ReadsAllThatAProtocolNeeds) {
  EvalConfig config;
  config::Document("", {"protocol=longlora", "context_lengths=[128, 512]", "stride=64", "max_documents=3"})
      .read_into(config);
  EXPECT_EQ(config.protocol, EvalProtocol::longlora);
  EXPECT_EQ(config.context_lengths, (std::vector<int64_t>{128, 512}));
  EXPECT_EQ(config.stride_for(512), 64);
  EXPECT_EQ(config.max_documents, 3);
}

TEST(EvalConfig, DefaultStrideFitsShortContexts) {
  EXPECT_EQ(EvalConfig{}.stride_for(4096), 256);
  EXPECT_EQ(EvalConfig{}.stride_for(100), 100);
}

TEST(EvalConfig, RefusesContradictions) {
  EXPECT_TRUE(contains(read_error({"stride=300", "context_lengths=[512, 256]"}), "gaps between windows of 256"));
  EXPECT_TRUE(contains(read_error({"truncate_to_context=true"}), "needs per_document"));
  EXPECT_TRUE(contains(read_error({"truncate_to_context=true", "per_document=true", "context_lengths=[64, 128]",
                                   "min_document_tokens=100"}),
                       "at least 128"));
  EXPECT_EQ(read_error({"truncate_to_context=true", "per_document=true", "context_lengths=[64, 128]",
                        "min_document_tokens=128"}),
            "");
  EXPECT_TRUE(contains(read_error({"context_lengths=[1]"}), "context_lengths"));
  EXPECT_TRUE(contains(read_error({"max_document_tokens=1"}), "max_document_tokens"));
}

}  // namespace
}  // namespace dga
