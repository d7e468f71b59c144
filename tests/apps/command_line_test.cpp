#include <regex>
#include <set>

#include "apps/program.h"

namespace dga {
namespace {

using CommandLine = ProgramTest;

constexpr const char* kSubcommands[] = {"train",  "eval",   "score", "generate", "tokenize", "export",
                                        "import", "config", "sweep", "report",   "bench",    "info"};

TEST_F(CommandLine, HelpNamesEverySubcommand) {
  const Finished help = run("--help");
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  for (const char* name : kSubcommands)
    EXPECT_NE(help.out.find(std::string("\n  ") + name + " "), std::string::npos) << name;
}

TEST_F(CommandLine, EverySubcommandHasHelpAndItsOptionsAreDocumented) {
  const std::string document = read_file(DGA_SOURCE_DIR "/docs/cli.md");
  const std::regex option("--[a-z][a-z-]*");
  std::vector<std::string> names(std::begin(kSubcommands), std::end(kSubcommands));
  std::erase(names, "bench");  // which has subcommands of its own
  names.insert(names.end(), {"bench attention", "bench train", "bench links"});
  for (const std::string& name : names) {
    const Finished help = run(name + " --help");
    EXPECT_EQ(help.code, 0) << name;
    EXPECT_NE(help.out.find("--help"), std::string::npos) << name;
    const size_t begin = document.find("## dga " + name + "\n");
    ASSERT_NE(begin, std::string::npos) << name;
    const std::string section = document.substr(begin, document.find("\n## ", begin) - begin);
    for (auto match = std::sregex_iterator(help.out.begin(), help.out.end(), option); match != std::sregex_iterator();
         ++match) {
      if (match->str() == "--help") continue;
      EXPECT_NE(section.find(match->str()), std::string::npos) << "docs/cli.md lacks " << name << " " << match->str();
    }
  }
}

TEST_F(CommandLine, WhatTakesAConfigTakesAssignments) {
  for (const std::string name : {"train", "eval", "score", "generate", "tokenize", "config", "sweep"}) {
    EXPECT_NE(run(name + " --help").out.find("--set FIELD=VALUE"), std::string::npos) << name;
  }
}

TEST_F(CommandLine, Version) {
  const Finished version = run("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out, "0.1.0\n");
}

TEST_F(CommandLine, WrongUseIsCodeTwoAndOneLine) {
  for (const char* arguments : {"", "fly", "config --fly", "train a.yaml b.yaml", "score", "config", "--set a=b",
                                "sweep", "report", "sweep a.yaml b.yaml", "eval --task poetry"}) {
    const Finished finished = run(arguments);
    EXPECT_EQ(finished.code, 2) << arguments;
    EXPECT_EQ(finished.out, "") << arguments;
    EXPECT_EQ(finished.err.substr(0, 7), "error: ") << arguments;
    EXPECT_EQ(finished.err.find('\n'), finished.err.size() - 1) << arguments << ": " << finished.err;
  }
}

TEST_F(CommandLine, InfoSaysWhatTheProgramIs) {
  const Finished info = run("info");
  EXPECT_EQ(info.code, 0) << info.err;
  for (const char* part : {"dga 0.1.0\n", "commit: ", "build: ", "cuda: ", "\n  LibTorch 2.11.0\n", "\n  cpu: "}) {
    EXPECT_NE(info.out.find(part), std::string::npos) << part << " is not in\n" << info.out;
  }
}

TEST_F(CommandLine, ReportWritesAPageOfRunsAndRefusesOtherFolders) {
  folder_.write("a/metrics.jsonl", "{\"step\": 1, \"loss\": 2.5}\n");
  folder_.write("b/metrics.jsonl", "{\"step\": 1, \"loss\": 3.5}\n");
  folder_.write("a/config.yaml", "run: {name: same}\n");
  folder_.write("b/config.yaml", "run: {name: same}\n");
  const Finished report = run("report a b --output pages/two.html --title 'Two runs'");
  EXPECT_EQ(report.code, 0) << report.err;
  const std::string page = read_file(folder_.path() / "pages/two.html");
  EXPECT_NE(page.find("<title>Two runs</title>"), std::string::npos);
  EXPECT_NE(page.find("\"same (a)\""), std::string::npos);  // names that two runs share are told apart
  EXPECT_NE(page.find("\"same (b)\""), std::string::npos);
  folder_.write("c/notes.txt", "");
  const Finished refused = run("report a c");
  EXPECT_EQ(refused.code, 4);
  EXPECT_EQ(refused.err, "error: c: not a run folder (none of config.yaml, metrics.jsonl, eval/)\n");
}

TEST_F(CommandLine, SweepSaysWhatIsWrongWithItsFileAndItsGpus) {
  folder_.write("s.yaml", "config: none.yaml\ngird: {}\n");
  EXPECT_EQ(run("sweep s.yaml").err, "error: s.yaml:2: gird: unknown key; did you mean grid?\n");
  EXPECT_EQ(run("sweep missing.yaml").code, 3);
}

}  // namespace
}  // namespace dga
