#include "report/page.h"

#include <gtest/gtest.h>

#include <regex>

namespace dga {
namespace {

RunData run(const std::string& name, std::map<std::string, std::string> settings) {
  RunData data;
  data.name = name;
  data.settings = std::move(settings);
  return data;
}

/// The data that the page's script reads.
nlohmann::json data_of(const std::string& page) {
  const std::string begin = "<script type=\"application/json\" id=\"data\">";
  const size_t from = page.find(begin) + begin.size();
  return nlohmann::json::parse(page.substr(from, page.find("</script>", from) - from));
}

TEST(Page, ListsTheSettingsThatDiffer) {
  const auto differing = differing_settings({run("a", {{"run.name", "a"}, {"x", "1"}, {"same", "s"}, {"old", "o"}}),
                                             run("b", {{"run.name", "b"}, {"x", "2"}, {"same", "s"}})});
  const decltype(differing) expected = {{"old", {"o", "(absent)"}}, {"x", {"1", "2"}}};
  EXPECT_EQ(differing, expected);
}

TEST(Page, NoTextOfARunCanEndTheScript) {
  const std::string evil = "</script><script>alert(1)</script>";
  const std::string page = report_page(evil, {run(evil, {{"x", evil}})});
  EXPECT_EQ(data_of(page).at("runs").at(0).at("name"), evil);
  EXPECT_EQ(page.find("<script>alert"), std::string::npos);
  EXPECT_NE(page.find("<title>&lt;/script>"), std::string::npos);
}

TEST(Page, LoadsNothingFromElsewhere) {
  const std::string page = report_page("t", {run("a", {})});
  const std::regex link("(src|href)\\s*=|@import|url\\(|fetch\\(|https?://(?!www\\.w3\\.org/2000/svg)");
  std::smatch found;
  EXPECT_FALSE(std::regex_search(page, found, link)) << found.str();
  for (const char* mark : {"@TITLE@", "@STYLE@", "@SCRIPT@", "@DATA@"}) EXPECT_EQ(page.find(mark), std::string::npos);
}

TEST(Page, CarriesTheSweptFields) {
  const nlohmann::json data = data_of(report_page("t", {run("p", {})}, {{"p", {{"attention.group_size", "4"}}}}));
  EXPECT_EQ(data.at("sweep").at(0).at("settings").at(0).at("value"), "4");
}

}  // namespace
}  // namespace dga
