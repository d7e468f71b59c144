#include "model/attention_record.h"

#include <nlohmann/json.hpp>

#include "config/load.h"
#include "model/hf_config.h"

namespace dga {
namespace {

/// Writes the fields of a config struct as JSON.
class JsonFields : public config::Fields {
 public:
  JsonFields() : places_{&root_} {}
  nlohmann::json take() { return std::move(root_); }

  using Fields::field;
  void field(const char* name, bool& value, const char*) override { here()[name] = value; }
  void field(const char* name, std::string& value, const char*) override { here()[name] = value; }
  void field(const char* name, int64_t& value, const char*, config::Range) override { here()[name] = value; }
  void field(const char* name, double& value, const char*, config::Range) override { here()[name] = value; }
  void field(const char* name, std::vector<std::string>& value, const char*) override { here()[name] = value; }
  void field(const char* name, std::vector<int64_t>& value, const char*, config::Range) override {
    here()[name] = value;
  }
  void field(const char* name, std::vector<double>& value, const char*, config::Range) override {
    here()[name] = value;
  }
  void field(const char* name, std::optional<int64_t>& value, const char*, config::Range) override {
    if (value) here()[name] = *value;
  }
  void field(const char* name, std::optional<double>& value, const char*, config::Range) override {
    if (value) here()[name] = *value;
  }

 protected:
  void choice(const char* name, size_t& index, const std::vector<std::string>& choices, const char*) override {
    here()[name] = choices[index];
  }
  void begin_section(const char* name, const char*) override { enter(here()[name] = nlohmann::json::object()); }
  void end_section() override { places_.pop_back(); }
  size_t begin_list(const char* name, size_t size, const char*) override {
    enter(here()[name] = nlohmann::json::array());
    for (size_t i = 0; i < size; ++i) here().push_back(nlohmann::json::object());
    return size;
  }
  void begin_item(size_t index) override { enter(here()[index]); }
  void end_list() override { places_.pop_back(); }
  void check(const std::function<void(config::Checker&)>&) override {}

 private:
  nlohmann::json& here() { return *places_.back(); }
  void enter(nlohmann::json& place) { places_.push_back(&place); }

  nlohmann::json root_ = nlohmann::json::object();
  std::vector<nlohmann::json*> places_;
};

}  // namespace

nlohmann::json attention_json(AttentionConfig attention) {
  JsonFields fields;
  attention.fields(fields);
  nlohmann::json recorded = fields.take();
  recorded.erase("backend");
  return recorded;
}

std::optional<AttentionConfig> recorded_attention(const std::filesystem::path& folder) {
  const std::optional<std::string> recorded = read_recorded_attention(folder);
  if (!recorded) return std::nullopt;
  struct OnlyAttention {
    AttentionConfig attention;
    void fields(config::Fields& f) { f.section("attention", attention, "attention"); }
  };
  config::Document document("", {"attention=" + *recorded});
  OnlyAttention file;
  document.read_into(file);
  return file.attention;
}

}  // namespace dga
