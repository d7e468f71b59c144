#include "util/file.h"

#include <gtest/gtest.h>

#include <functional>

#include "support/temp_folder.h"
#include "util/error.h"

namespace dga {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

std::string message_of(const std::function<void()>& action, ExitCode code) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "no error";
}

TEST(FileTest, AtomicWriteReplacesAndLeavesNothingElse) {
  const TempFolder folder;
  const fs::path file = folder.path() / "a.bin";
  write_file_atomic(file, "first");
  const std::string second("sec\0nd\n", 7);
  write_file_atomic(file, second);
  EXPECT_EQ(read_file(file), second);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a.bin"});
}

TEST(FileTest, FailedAtomicWriteKeepsTheOldFileAndNoTemporary) {
  const TempFolder folder;
  const fs::path target = folder.path() / "taken";
  folder.write("taken/inside", "x");  // a folder that is not empty cannot be replaced by a file
  EXPECT_EQ(message_of([&] { write_file_atomic(target, "new"); }, ExitCode::failure).substr(0, 13), "cannot rename");
  EXPECT_EQ(read_file(target / "inside"), "x");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"taken"});
}

TEST(FileTest, AtomicWriteIntoAMissingFolderNamesThePath) {
  const TempFolder folder;
  const std::string message = message_of([&] { write_file_atomic(folder.path() / "none/a", "x"); }, ExitCode::failure);
  EXPECT_NE(message.find("none/a"), std::string::npos) << message;
}

TEST(FileTest, ReadingWhatIsNoFileIsAnInputError) {
  const TempFolder folder;
  const std::string missing = message_of([&] { read_file(folder.path() / "none"); }, ExitCode::input);
  EXPECT_NE(missing.find("none: No such file"), std::string::npos) << missing;
  EXPECT_NE(message_of([&] { read_file(folder.path()); }, ExitCode::input), "no error");
}

TEST(FileTest, AFullDiskIsAnError) {
  const std::string message = message_of(
      [] {
        OutputFile out("/dev/full");
        out.write("x");
        out.close_synced();
      },
      ExitCode::failure);
  EXPECT_EQ(message, "cannot write /dev/full: No space left on device");
}

TEST(FileTest, AppendingAndTruncating) {
  const TempFolder folder;
  const fs::path file = folder.write("a", "one,");
  {
    OutputFile out(file, /*append=*/true);
    out.write("two");
  }
  EXPECT_EQ(read_file(file), "one,two");
  OutputFile(file).close_synced();
  EXPECT_EQ(read_file(file), "");
}

TEST(FileTest, RenameReplacesAFile) {
  const TempFolder folder;
  rename_synced(folder.write("a", "new"), folder.write("b", "old"));
  EXPECT_EQ(read_file(folder.path() / "b"), "new");
  EXPECT_FALSE(fs::exists(folder.path() / "a"));
}

std::vector<std::string> glob_names(const TempFolder& folder, const std::string& pattern) {
  std::vector<std::string> names;
  for (const fs::path& path : expand_glob((folder.path() / pattern).string()))
    names.push_back(folder.relative(path.string()));
  return names;
}

TEST(FileTest, Globs) {
  const TempFolder folder;
  for (const char* name : {"b.txt", "a.txt", "B.txt", "a10.txt", "a2.txt", "sub/c.txt", ".hidden.txt"})
    folder.write(name, "");
  using List = std::vector<std::string>;
  EXPECT_EQ(glob_names(folder, "*.txt"), (List{"B.txt", "a.txt", "a10.txt", "a2.txt", "b.txt"}));
  EXPECT_EQ(glob_names(folder, "?.txt"), (List{"B.txt", "a.txt", "b.txt"}));
  EXPECT_EQ(glob_names(folder, "[ab].txt"), (List{"a.txt", "b.txt"}));
  EXPECT_EQ(glob_names(folder, "*/*.txt"), (List{"sub/c.txt"}));
  EXPECT_EQ(glob_names(folder, "{b,a,?}.txt"), (List{"B.txt", "a.txt", "b.txt"}));
  EXPECT_EQ(glob_names(folder, "a.txt"), List{"a.txt"});
  EXPECT_EQ(glob_names(folder, "none*"), List{});
}

}  // namespace
}  // namespace dga
