#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "config/load.h"
#include "run/run_config.h"
#include "util/file.h"

namespace dga {
namespace {

std::string reference_of_all_fields() {
  RunConfig defaults;
  return config::reference([&](config::Fields& f) { defaults.fields(f); });
}

TEST(ConfigDocumentTest, DocsConfigHoldsTheReferenceOfTheCode) {
  const std::string document = read_file(std::string(DGA_SOURCE_DIR) + "/docs/config.md");
  const std::string marker = "<!-- below: dga config --reference -->\n";
  const size_t at = document.find(marker);
  ASSERT_NE(at, std::string::npos);
  EXPECT_EQ(document.substr(at + marker.size()), "\n" + reference_of_all_fields())
      << "docs/config.md is out of date: below the marker stands what dga config --reference prints";
}

TEST(ConfigDocumentTest, EveryFieldSaysWhatItIs) {
  std::istringstream lines(reference_of_all_fields());
  int rows = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("| `")) continue;
    ++rows;
    EXPECT_FALSE(line.ends_with("|  |")) << line;
    EXPECT_EQ(std::count(line.begin(), line.end(), '|'), 5) << line << ": a | splits the table";
  }
  EXPECT_GT(rows, 80);
}

}  // namespace
}  // namespace dga
