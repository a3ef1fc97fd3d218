/* Generates from token ids within a memory budget, in plain C.
 *
 *   cc -std=c11 generate.c -I../../runtime/include -L../../build/dev -ledgekit -Wl,-rpath,../../build/dev -o generate
 *   ./generate model.edgekit 400 64 1 403 407 261 378      (budget in MiB, tokens to generate, token ids of the prompt)
 *
 * Turning text into ids and back is the tokenizer's business: BUNDLE/tokenizer/tokenizer.json says how.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "edgekit/edgekit.h"

static int failed(const char* what, const edgekit_error* error) {
  fprintf(stderr, "%s: %s\n", what, error->message);
  return 1;
}

/* Prints `most` tokens that follow the prompt, or fewer when the context is full. */
static edgekit_status print_tokens(edgekit_session* session, const int32_t* prompt, uint32_t count, uint32_t most,
                                   edgekit_error* error) {
  edgekit_sampling greedy = {0}; /* temperature 0 */
  greedy.struct_size = sizeof greedy;
  edgekit_status status = edgekit_session_eval(session, prompt, count, 0, NULL, error);
  for (uint32_t i = 0; i < most && status == EDGEKIT_OK; ++i) {
    int32_t token = 0;
    status = edgekit_session_next(session, &greedy, &token, error);
    if (status == EDGEKIT_OK) {
      printf("%d ", (int)token);
      fflush(stdout);
    }
  }
  printf("\n");
  return status == EDGEKIT_CONTEXT_FULL && edgekit_session_position(session) > 0 ? EDGEKIT_OK : status;
}

static void print_speed(const edgekit_session* session) {
  edgekit_stats stats = {0};
  stats.struct_size = sizeof stats;
  if (edgekit_session_stats(session, &stats, NULL) != EDGEKIT_OK) return;
  double tokens = stats.generated_tokens > 0 ? (double)stats.generated_tokens : 1.0;
  fprintf(stderr, "%.1f tok/s, %.1f MiB at most, %.1f KiB read per token\n",
          stats.generation_seconds > 0 ? (double)stats.generated_tokens / stats.generation_seconds : 0.0,
          (double)stats.peak_memory_bytes / 1048576.0, (double)stats.generation_bytes_read / 1024.0 / tokens);
}

static int generate(const char* bundle, uint64_t budget, uint32_t most, const int32_t* prompt, uint32_t count) {
  edgekit_error error = {0};
  edgekit_options options = {0};
  edgekit_model* model = NULL;
  edgekit_session* session = NULL;
  options.struct_size = sizeof options;
  options.budget_bytes = budget;
  options.context = count + most;
  if (edgekit_model_open(bundle, &options, &model, &error) != EDGEKIT_OK) return failed("open", &error);
  if (edgekit_session_create(model, &session, &error) != EDGEKIT_OK) {
    edgekit_model_close(model);
    return failed("session", &error);
  }
  edgekit_status status = print_tokens(session, prompt, count, most, &error);
  print_speed(session);
  edgekit_session_destroy(session);
  edgekit_model_close(model);
  return status == EDGEKIT_OK ? 0 : failed("generate", &error);
}

int main(int argc, char** argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: %s BUNDLE RAM_MIB TOKENS ID [ID ...]\n", argv[0]);
    return 2;
  }
  uint32_t count = (uint32_t)(argc - 4);
  int32_t* prompt = malloc(count * sizeof *prompt);
  if (prompt == NULL) return 1;
  for (uint32_t i = 0; i < count; ++i) {
    char* end = NULL;
    errno = 0;
    long id = strtol(argv[4 + i], &end, 10);
    if (errno != 0 || *end != '\0' || id < 0 || id > INT32_MAX) {
      fprintf(stderr, "'%s' is not a token id\n", argv[4 + i]);
      free(prompt);
      return 2;
    }
    prompt[i] = (int32_t)id;
  }
  int result = generate(argv[1], strtoull(argv[2], NULL, 10) << 20, (uint32_t)strtoul(argv[3], NULL, 10), prompt, count);
  free(prompt);
  return result;
}
