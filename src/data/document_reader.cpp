#include "data/document_reader.h"

#include <algorithm>

#include "data/source_files.h"
#include "data/token_store.h"

namespace dga {

struct DocumentReader::Impl {
  struct File {
    std::string source;
    int64_t min_tokens = 0;
    SourceFile file;
  };

  Impl(const DataConfig& data, std::shared_ptr<const Tokenizer> of_text) : tokenizer(of_text), store(data, of_text) {}
  ~Impl() { store.stop(); }

  std::shared_ptr<const Tokenizer> tokenizer;
  TokenStore store;
  std::vector<File> files;
  size_t next_file = 0;
  std::shared_ptr<TokenFile> open;
  std::shared_ptr<TokenFile> ahead;
  int64_t next_document = 0;

  int64_t count_bytes(const std::vector<int32_t>& tokens) const {
    if (!tokenizer) return -1;
    int64_t bytes = 0;
    for (const int32_t token : tokens) bytes += tokenizer->token_bytes(token);
    return bytes;
  }
};

DocumentReader::DocumentReader(const std::vector<SourceConfig>& sources, const DataConfig& data,
                               std::shared_ptr<const Tokenizer> tokenizer, int64_t min_tokens)
    : impl_(std::make_unique<Impl>(data, std::move(tokenizer))) {
  for (const SourceConfig& source : sources) {
    for (SourceFile& file : list_files(source)) {
      impl_->files.push_back({source.name, std::max(source.min_tokens, min_tokens), std::move(file)});
    }
  }
}

DocumentReader::~DocumentReader() = default;

std::optional<TokenizedDocument> DocumentReader::next() {
  Impl& impl = *impl_;
  for (; impl.next_file < impl.files.size(); ++impl.next_file, impl.next_document = 0, impl.open.reset()) {
    const Impl::File& file = impl.files[impl.next_file];
    if (!impl.open) {
      impl.open = impl.store.open(file.file);
      if (impl.next_file + 1 < impl.files.size()) {
        impl.ahead = impl.store.open(impl.files[impl.next_file + 1].file, impl.open);
      }
    }
    while (const std::optional<TokenDocument> found = impl.open->document(impl.next_document)) {
      ++impl.next_document;
      if (found->tokens < std::max<int64_t>(1, file.min_tokens)) continue;
      TokenizedDocument document;
      document.tokens.resize(static_cast<size_t>(found->tokens));
      impl.open->read(found->offset, document.tokens);
      document.bytes = found->bytes >= 0 ? found->bytes : impl.count_bytes(document.tokens);
      document.ref.source = file.source;
      document.ref.file = file.file.path.string();
      document.ref.line_or_index = found->line;
      return document;
    }
  }
  return std::nullopt;
}

}  // namespace dga
