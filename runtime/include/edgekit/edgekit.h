/* edgekit.h: the only door to the edgekit runtime. C11, no dependencies.
 *
 * Conventions
 *   - Every fallible function returns an edgekit_status and, when `error` is not NULL, fills it.
 *   - Structs begin with `struct_size`; the caller sets it to sizeof(the struct), for results too.
 *     Later versions grow at the end, so programs and libraries of different age work together:
 *     fields that the caller's struct does not have are taken for zero, fields of a result that the
 *     library does not know are set to zero, and an option that the library does not know must be
 *     zero, else the call fails with EDGEKIT_UNSUPPORTED. A struct_size that is zero or no multiple
 *     of 8 is refused. Zero in any other field of edgekit_options means "the default".
 *   - Handles are opaque. NULL for a handle or for anything that is needed is refused with
 *     EDGEKIT_INVALID_ARGUMENT; functions without a status do nothing then, or return 0.
 *   - A model may be shared by sessions on different threads (their forward passes take turns); one
 *     session must not be used by two threads at once, nor a session together with its draft session.
 *   - From any thread at any time: edgekit_session_cancel (a signal handler too),
 *     edgekit_session_stats, edgekit_model_set_budget, edgekit_model_info, edgekit_model_plan, and
 *     every function without a handle.
 *   - Destroy a model's sessions before the model is closed, and close it when no other thread is in
 *     it. A handle must not be used after it was destroyed or closed.
 */
#ifndef EDGEKIT_EDGEKIT_H
#define EDGEKIT_EDGEKIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define EDGEKIT_API __declspec(dllexport)
#else
#define EDGEKIT_API __attribute__((visibility("default")))
#endif

#define EDGEKIT_ABI_VERSION 2

typedef int32_t edgekit_status;
enum {
  EDGEKIT_OK = 0,
  EDGEKIT_INVALID_ARGUMENT = 1, /* the caller passed something that cannot be right */
  EDGEKIT_NOT_FOUND = 2,        /* a file is missing or cannot be opened */
  EDGEKIT_CORRUPT = 3,          /* a file's content contradicts its checksum or the format */
  EDGEKIT_UNSUPPORTED = 4,      /* well formed, but newer or stranger than this runtime knows */
  EDGEKIT_IO = 5,               /* the device failed to deliver */
  EDGEKIT_OVER_BUDGET = 6,      /* budget_bytes is below what this model needs at least */
  EDGEKIT_CANCELLED = 7,        /* edgekit_session_cancel was called */
  EDGEKIT_NO_MEMORY = 8,        /* the operating system refused an allocation */
  EDGEKIT_CONTEXT_FULL = 9,     /* the session's context has no room for that many tokens */
  EDGEKIT_NOT_FINITE = 10       /* a pass gave logits that are infinite or no numbers */
};

typedef struct edgekit_error {
  edgekit_status status;
  char message[508]; /* UTF-8, one line, always terminated */
} edgekit_error;

enum { EDGEKIT_IO_AUTO = 0, EDGEKIT_IO_DIRECT = 1, EDGEKIT_IO_BUFFERED = 2 };
/* Keys and values: 16 or 32 bits, or 8 or 4 bits with a scale (16 bits) for every 32; 4 bits after a rotation. */
enum { EDGEKIT_CACHE_F16 = 0, EDGEKIT_CACHE_F32 = 1, EDGEKIT_CACHE_Q8 = 2, EDGEKIT_CACHE_Q4 = 3 };
/* Which positions of a text the KV cache keeps. sinks: the first kv_sinks and the last kv_window of them (StreamingLLM,
 * arXiv 2309.17453), at the positions that they have in the text; older ones are forgotten. For layers without a
 * sliding window of their own; others keep theirs. A text still ends where the context does. */
enum { EDGEKIT_KV_FULL = 0, EDGEKIT_KV_SINKS = 1 };
#define EDGEKIT_KV_NO_SINKS UINT32_MAX
/* What matrices are multiplied with. int8: activations of 8 bits with a scale for every 32, where the codec has kernels
 * for that (affine and scaled_palette); faster, and the text may differ from that of f32. auto: int8 where that changes
 * little, which is from 3 bits on, else f32. Every kernel set computes the same bits of a product with int8. */
enum { EDGEKIT_ACTIVATIONS_AUTO = 0, EDGEKIT_ACTIVATIONS_F32 = 1, EDGEKIT_ACTIVATIONS_INT8 = 2 };
/* How many small reads are kept under way; auto: io_uring where the system allows it. */
enum { EDGEKIT_IO_ENGINE_AUTO = 0, EDGEKIT_IO_ENGINE_URING = 1, EDGEKIT_IO_ENGINE_THREADS = 2 };
/* Which neurons of a feed-forward block a token gets. The others are taken for zero and not read. */
enum {
  EDGEKIT_SELECT_AUTO = 0,      /* all when everything is resident, else the best the bundle offers */
  EDGEKIT_SELECT_ALL = 1,       /* every neuron: layers are streamed */
  EDGEKIT_SELECT_EXACT = 2,     /* the gate of every neuron, then only the active ones: same result as all */
  EDGEKIT_SELECT_PREDICTED = 3, /* those that the bundle's predictor expects to be active */
  EDGEKIT_SELECT_THRESHOLD = 4, /* those whose |activation| passes a calibrated cut; see `sparsity` */
  EDGEKIT_SELECT_PROMPT = 5,    /* those that the prompt used most; see `sparsity` */
  EDGEKIT_SELECT_ROUTER = 6     /* the experts that the router chooses (always so in a mixture) */
};
#define EDGEKIT_WINDOW_NONE UINT32_MAX
/* What a model gives: logits of the next token; a vector of a text; a score of a text, mostly of a query with a
 * document (a reranker); or what a decoder reads of a picture. */
enum { EDGEKIT_OUTPUT_LOGITS = 0, EDGEKIT_OUTPUT_EMBEDDING = 1, EDGEKIT_OUTPUT_SCORE = 2, EDGEKIT_OUTPUT_IMAGE = 3 };
/* How the hidden states of a text become its vector: the first token's, their mean, the largest of each value, the last
 * token's. bundle: as the bundle says, else the last token's. */
enum {
  EDGEKIT_POOLING_BUNDLE = 0,
  EDGEKIT_POOLING_CLS = 1,
  EDGEKIT_POOLING_MEAN = 2,
  EDGEKIT_POOLING_MAX = 3,
  EDGEKIT_POOLING_LAST = 4
};
/* Whether a vector is divided by its length. bundle: as the bundle says, else not. */
enum { EDGEKIT_NORMALIZE_BUNDLE = 0, EDGEKIT_NORMALIZE_YES = 1, EDGEKIT_NORMALIZE_NO = 2 };
/* What of the model this runtime computes. With less than all, another engine has the rest: the budget
 * holds nothing else, and tokens cannot be evaluated. */
enum {
  EDGEKIT_COMPUTE_ALL = 0,
  EDGEKIT_COMPUTE_FEED_FORWARD = 1, /* edgekit_session_feed_forward */
  EDGEKIT_COMPUTE_LINEAR = 2        /* that, and edgekit_session_linear: projections of attention, and the head */
};

/* One line of UTF-8 about something a developer may want to know; valid during the call. Comes from the
 * thread that is in edgekit_model_open or edgekit_model_set_budget, and must not call back into edgekit. */
typedef void (*edgekit_log_callback)(int32_t level, const char* message, void* user);
enum { EDGEKIT_LOG_INFO = 0, EDGEKIT_LOG_WARNING = 1 };

typedef struct edgekit_options {
  uint32_t struct_size;
  uint32_t threads;         /* compute threads; 0: one per core */
  uint64_t budget_bytes;    /* hard limit of everything the runtime allocates; 0: no limit */
  uint32_t context;         /* tokens per session; 0: the model's maximum, at most 2048 */
  uint32_t max_batch;       /* tokens per prefill pass; 0: 128, fewer under a tight budget */
  uint32_t sessions;        /* sessions the budget must leave room for; 0: 1 */
  uint32_t io_mode;         /* EDGEKIT_IO_*; auto tries direct and falls back to buffered */
  uint32_t cache_type;      /* of the KV cache: EDGEKIT_CACHE_* */
  uint32_t io_threads;      /* reader threads; 0: 4 */
  const char* kernels;      /* a name of edgekit_kernel_sets; NULL: the best of this CPU */
  uint32_t select;          /* EDGEKIT_SELECT_* */
  uint32_t window_tokens;   /* latest tokens whose units stay in memory; 0: as many as fit; EDGEKIT_WINDOW_NONE: none */
  uint32_t io_engine;       /* EDGEKIT_IO_ENGINE_* */
  uint32_t io_depth;        /* small reads under way at once; 0: 128 */
  float sparsity;           /* threshold, prompt: share of the neurons to leave out; 0: a half */
  uint32_t no_lookahead;    /* 1: predictors and routers are not asked a block ahead */
  uint32_t compute;         /* EDGEKIT_COMPUTE_* */
  uint32_t draft_tokens;    /* most tokens drafted for one pass (edgekit_session_next), at most 64; 0: none, else
                             * EDGEKIT_SELECT_AUTO stands for EDGEKIT_SELECT_ALL */
  edgekit_log_callback log; /* NULL: nothing is said */
  void* log_user;
  uint32_t activations; /* EDGEKIT_ACTIVATIONS_* */
  uint32_t kv_policy;   /* EDGEKIT_KV_* */
  uint32_t kv_window;   /* sinks: latest positions that are seen, the newest included; 0: 512 */
  uint32_t kv_sinks;    /* sinks: first positions that stay; 0: 4; EDGEKIT_KV_NO_SINKS: none */
  const char* lora; /* path of a LoRA adapter that was made for this bundle (`edgekit adapter`); NULL: none. It is held
                     * in memory; saved sessions belong to it. EDGEKIT_SELECT_AUTO then stands for EDGEKIT_SELECT_ALL */
  uint32_t least_batch; /* tokens that a pass holds however tight the budget, as of a picture whose rows see each other
                         * (edgekit_session_eval_embeddings); 0: 1 */
  uint32_t reserved;
} edgekit_options;

/* What the planner decided, in bytes. */
typedef struct edgekit_plan {
  uint32_t struct_size;
  uint32_t context;
  uint32_t max_batch;
  uint32_t reserved;
  uint64_t budget_bytes;        /* the limit, or the total when there is none */
  uint64_t floor_bytes;         /* the least budget_bytes that works with these options */
  uint64_t weight_bytes;        /* all weights of the model */
  uint64_t resident_bytes;      /* weights kept in memory */
  uint64_t streamed_bytes;      /* weights read from flash in every dense pass */
  uint64_t kv_bytes;            /* KV cache of one session */
  uint64_t activation_bytes;    /* work buffers */
  uint64_t stream_buffer_bytes; /* read-ahead ring */
  uint64_t window_bytes;        /* room for units that recent tokens needed */
  uint32_t select;              /* EDGEKIT_SELECT_* in force */
  uint32_t reserved2;
} edgekit_plan;

typedef struct edgekit_stats {
  uint32_t struct_size;
  uint32_t io_direct;         /* 1: reads bypass the page cache */
  uint64_t memory_bytes;      /* held by the runtime now */
  uint64_t peak_memory_bytes; /* most held at any time; never above the budget */
  uint64_t bytes_read;        /* from flash since open, loading included */
  uint64_t prompt_tokens;     /* this session: tokens evaluated in passes of several tokens */
  uint64_t generated_tokens;  /* this session: tokens appended one at a time, accepted drafts among them */
  double prompt_seconds;
  double generation_seconds;
  uint64_t prompt_bytes_read;
  uint64_t generation_bytes_read;
  double io_wait_seconds; /* this session: compute waiting for flash */
  /* This session, passes of one token, blocks that select their neurons: */
  uint64_t neurons;         /* there are */
  uint64_t selected;        /* were selected */
  uint64_t window_hits;     /* units that were in memory */
  uint64_t window_misses;   /* units that had to be read */
  double select_seconds;    /* choosing neurons */
  double read_seconds;      /* waiting for units */
  double ffn_seconds;       /* computing with them */
  double manage_seconds;    /* finding and evicting units, queueing reads */
  uint64_t read_operations; /* small reads since open; neighbours count as one */
  uint32_t io_uring;        /* 1: small reads go through io_uring */
  uint32_t reserved;
  uint64_t window_unused;   /* misses that were read ahead and not needed */
  uint64_t drafted_tokens;  /* this session: tokens drafted and evaluated */
  uint64_t accepted_tokens; /* and those of them that became text */
} edgekit_stats;

typedef struct edgekit_info {
  uint32_t struct_size;
  uint32_t vocab_size;
  uint32_t hidden_size;
  uint32_t max_context;
  uint32_t blocks;
  uint32_t threads;
  char kernels[32];    /* kernel set in use */
  uint32_t output;     /* EDGEKIT_OUTPUT_* */
  uint32_t pooling;    /* EDGEKIT_POOLING_* of the bundle; 0: it has none */
  uint32_t max_length; /* tokens of a text that is to have a vector; 0 without pooling */
  uint32_t reserved;
  /* Of an encoder of pictures: values of a patch; patches that become one row of its output; values of such a row; and
   * positions that a patch may have, 0 if it needs none. Of other models 0. */
  uint32_t patch_columns;
  uint32_t merged_patches;
  uint32_t picture_columns;
  uint32_t picture_positions;
} edgekit_info;

/* A text and its vector. */
typedef struct edgekit_embedding {
  uint32_t struct_size;
  uint32_t count;        /* tokens, at most the plan's context */
  const int32_t* tokens; /* [count] */
  const uint8_t* types;  /* [count] token types, as of the second text of a pair; NULL: all 0 */
  float* vector;         /* [hidden_size] out */
  float* states;         /* [count][hidden_size] out: the hidden states, in order; NULL: not wanted */
  uint32_t pooling;      /* EDGEKIT_POOLING_* */
  uint32_t normalize;    /* EDGEKIT_NORMALIZE_* */
  float score;           /* out: what a reranker's head gives, before a sigmoid; of other models 0 */
  uint32_t reserved;
} edgekit_embedding;

/* Positions of a text that are given as what the blocks get of them, in place of tokens. */
typedef struct edgekit_input {
  uint32_t struct_size;
  uint32_t count;        /* positions */
  const int32_t* tokens; /* [count]: what stands in the text there, as the placeholder of a picture */
  const float* rows;     /* [count][columns] */
  uint32_t columns;      /* the model's hidden_size */
  uint32_t both_ways;    /* nonzero: each of them sees those behind it too, and with a window that many before it;
                          * then at most the plan's max_batch */
} edgekit_input;

/* A picture, or a tile of one, for an encoder of pictures: its patches, those that become one row side by side. */
typedef struct edgekit_patches {
  uint32_t struct_size;
  uint32_t count;            /* a multiple of merged_patches, at most the plan's max_batch */
  const float* values;       /* [count][columns] */
  const uint32_t* positions; /* [count]: of each patch, less than picture_positions; NULL if that is 0 */
  float* out;                /* [rows][out_columns] out */
  uint32_t columns;          /* patch_columns of edgekit_info */
  uint32_t rows;             /* count / merged_patches */
  uint32_t out_columns;      /* picture_columns */
  uint32_t added_columns;    /* the encoder's hidden_size; 0 without `added` */
  const float* added;        /* [count][added_columns]: in place of positions, what is added to each patch; or NULL */
} edgekit_patches;

typedef struct edgekit_sampling {
  uint32_t struct_size;
  float temperature;    /* <= 0: greedy */
  uint32_t top_k;       /* 0: off */
  float top_p;          /* 0 or >= 1: off */
  float min_p;          /* 0: off */
  float repeat_penalty; /* 0 or 1: off */
  uint32_t repeat_last_n;
  uint32_t reserved;
  uint64_t seed;
  float presence_penalty;     /* taken once from the logit of a token that the text has; 0: off */
  float frequency_penalty;    /* taken as often as the text has it; 0: off */
  uint32_t penalty_begin;     /* these two count tokens of the text from this place on: the prompt's length, mostly */
  uint32_t bias_count;        /* at most vocab_size */
  const int32_t* bias_tokens; /* [bias_count]: tokens to whose logits something is added */
  const float* bias_values;   /* [bias_count]: what is added, finite */
  const uint32_t* mask; /* [mask_words]: tokens that may be chosen, as bit token % 32 of word token / 32; NULL: all */
  uint32_t mask_words;  /* ceil(vocab_size / 32) where there is a mask */
  uint32_t reserved2;
} edgekit_sampling;

/* Reads of a file as the runtime makes them. */
typedef struct edgekit_read_test {
  uint32_t struct_size;
  uint32_t io_mode, io_engine; /* EDGEKIT_IO_*, EDGEKIT_IO_ENGINE_* */
  uint32_t depth, threads;     /* reads under way; reader threads where io_uring is not used */
  uint32_t sequential;         /* 1: from the beginning on, else at random places */
  uint32_t once;               /* 1: stop at the end of the file (sequential) */
  uint32_t direct, uring;      /* out: what was in effect */
  uint64_t chunk_bytes;        /* of one read, a multiple of 4096 */
  uint64_t seed;
  double seconds;        /* how long to go on */
  double elapsed;        /* out */
  uint64_t reads, bytes; /* out */
} edgekit_read_test;

/* A matrix that no cache holds times a vector, or its rows times numbers, added up. */
typedef struct edgekit_kernel_test {
  uint32_t struct_size;
  uint32_t bits, cols, threads;
  const char* codec;    /* as in the manifest: "f16", "affine", "palette" */
  double seconds;       /* how long to go on */
  double elapsed;       /* out */
  uint64_t bytes;       /* out: of weights */
  uint32_t down;        /* 1: rows are added up, as those of a down projection are; always with f32 */
  uint32_t activations; /* EDGEKIT_ACTIVATIONS_* */
} edgekit_kernel_test;

/* Which tokens may be chosen next. `mask` has `words` = ceil(vocab_size / 32) words, with the bits of the sampling's
 * mask or else all set: clear bit token % 32 of word token / 32 for each token that may not be chosen. Called by
 * edgekit_session_next on its thread, when the pass is done and before it chooses, so that a mask can be computed on
 * another thread during the pass, which this waits for. It must not use the session. Anything but 0 ends the call with
 * EDGEKIT_CANCELLED. */
typedef int32_t (*edgekit_mask_callback)(uint32_t* mask, uint32_t words, void* user);

/* One pass of a search for the codes of a matrix of the codec "trellis", row by row. Several passes make a search:
 *   1. free_ends = 1, begin = cols / 2: codes around columns 0 and cols - 1 that suit both sides,
 *   2. begin = 0, which keeps the bits that the ends have in common, so that rows bite their tails,
 *   3. as often as it pays: keep_better = 1 and any `begin`, with row_feedback from all other rows.
 * A row goes from column begin - 1 downward, around its end, to `begin`. With P that order, the row's error e costs
 * sum over i of pivots[i] * (e[P[i]] + sum over j < i of feedback[i][j] * e[P[j]])^2: for a Hessian H of the columns
 * in that order, H = F' D F with F = I + feedback lower triangular and D = pivots.
 * Row r is chosen for its weights plus the sum over s of row_feedback[r][s] * errors[s]. */
typedef struct edgekit_trellis {
  uint32_t struct_size;
  uint32_t rows, cols;       /* cols: a multiple of 32; columns that were added have weights and pivots of 0 */
  uint32_t bits, state_bits; /* of a weight: 2, 3, 4; of the trellis's state: 12 to 16 */
  uint32_t begin;
  uint32_t history;      /* columns for which a path remembers its own errors: 16, 32, 64; 0: 64 */
  uint32_t free_ends;    /* 1: the ends need not fit each other, and the codes that are given do not matter */
  uint32_t keep_better;  /* 1: a row keeps the codes it has where those cost less */
  uint32_t rows_at_once; /* rows chosen side by side, which see no errors of each other; 0: one with row_feedback */
  uint32_t threads;      /* 0: one. The result does not depend on it */
  uint32_t scale_step_count;
  const int32_t* scale_steps; /* [scale_step_count] what is added to a row's scale code to try others; NULL: 0 */
  const float* weights;       /* [rows][cols] */
  const float* feedback;      /* [cols][cols], below the diagonal, in the order of the search; NULL: none */
  const float* pivots;        /* [cols], in the order of the search; NULL: ones, without feedback */
  const float* row_feedback;  /* [rows][rows]; NULL: none */
  float* errors;              /* [rows][cols] in and out: weights minus what the codes stand for */
  uint8_t* codes;             /* [rows][cols] in and out: the low `bits` bits of each column's state */
  uint8_t* scales;            /* [rows] in and out: scale codes */
  double cost;                /* out: of all rows */
} edgekit_trellis;

typedef struct edgekit_model edgekit_model;
typedef struct edgekit_session edgekit_session;

/* Called after the input of each feed-forward block is known, while a pass is under way: x is f32
 * [tokens][stride], of which the first hidden_size values count. For calibration. */
typedef void (*edgekit_capture_callback)(uint32_t block, const float* x, uint32_t tokens, uint32_t stride, void* user);

/* Called with the input of a matrix's part while a pass of several tokens is under way: x is f32 [tokens][stride], of
 * which as many values count as the part has columns; for the last part of a feed-forward matrix, which is stored by
 * neuron, as many as it has neurons. `matrix` counts as the manifest lists them. Gate and up share part 0's input; an
 * expert gets those tokens that chose it. For calibration. */
typedef void (*edgekit_inputs_callback)(uint32_t matrix, uint32_t part, const float* x, uint32_t tokens,
                                        uint32_t stride, void* user);

EDGEKIT_API uint32_t edgekit_abi_version(void);
EDGEKIT_API const char* edgekit_version(void);
/* Comma-separated names of what this build can do, for callers that meet several versions: selections,
 * "budget", "save", "feed_forward", "linear", "log", "draft", "mask", "logprobs", "penalties", "activations",
 * "sessions", "copy", "embed", "lora", "embeddings", "pictures", "uring". Unknown names may appear. */
EDGEKIT_API const char* edgekit_features(void);
/* Comma-separated names of the kernel sets this CPU can run, best first. */
EDGEKIT_API const char* edgekit_kernel_sets(void);
/* Comma-separated codecs that this library computes with, as "palette:4": name in the manifest and bits. */
EDGEKIT_API const char* edgekit_codecs(void);
/* What zeros in the options stand for on this machine. Where that depends on the bundle or the budget
 * (context, max_batch, select, window_tokens), zero stays. */
EDGEKIT_API edgekit_status edgekit_default_options(edgekit_options* options, edgekit_error* error);
/* llama.cpp's defaults, which differ from zeros: those choose greedily. */
EDGEKIT_API edgekit_status edgekit_default_sampling(edgekit_sampling* sampling, edgekit_error* error);

/* Reads and checks the manifest and decides residency; loads no weights. On EDGEKIT_OVER_BUDGET
 * `plan` is filled too, so that the floor can be shown. */
EDGEKIT_API edgekit_status edgekit_plan_bundle(const char* path, const edgekit_options* options, edgekit_plan* plan,
                                               edgekit_error* error);

EDGEKIT_API edgekit_status edgekit_model_open(const char* path, const edgekit_options* options, edgekit_model** model,
                                              edgekit_error* error);
EDGEKIT_API void edgekit_model_close(edgekit_model* model); /* after its sessions */
EDGEKIT_API edgekit_status edgekit_model_info(const edgekit_model* model, edgekit_info* info, edgekit_error* error);
EDGEKIT_API edgekit_status edgekit_model_plan(const edgekit_model* model, edgekit_plan* plan, edgekit_error* error);
/* Changes the budget of a model that is in use: waits for the evaluation at hand, then gives memory
 * back (before it returns) or takes more and fills it. What is generated does not change. A budget
 * below what buffers and sessions hold is refused with EDGEKIT_OVER_BUDGET and changes nothing. When
 * more was granted and cannot be read, the error says why and the model goes on with what it has.
 * May be called from any thread. 0: no limit. */
EDGEKIT_API edgekit_status edgekit_model_set_budget(edgekit_model* model, uint64_t budget_bytes, edgekit_error* error);
/* What the window of units learned from the tokens so far: saving writes how often each unit was used to a file, which
 * appears when it is whole; a file of the same bundle that is there already counts half. Loading takes such counts, so
 * that the window knows from the first token on which units to keep; it reads no units. Texts stay the same.
 * Loading needs a file of the same bundle, under any budget; without a window it only checks the file, and saving is
 * EDGEKIT_INVALID_ARGUMENT. After an error the model goes on as it was. Wait for the pass that is under way. */
EDGEKIT_API edgekit_status edgekit_model_save_warm(edgekit_model* model, const char* path, edgekit_error* error);
EDGEKIT_API edgekit_status edgekit_model_load_warm(edgekit_model* model, const char* path, edgekit_error* error);

/* Reads every unit of a bundle and compares its checksum. */
EDGEKIT_API edgekit_status edgekit_verify_bundle(const char* path, edgekit_error* error);

EDGEKIT_API edgekit_status edgekit_session_create(edgekit_model* model, edgekit_session** session,
                                                  edgekit_error* error);
EDGEKIT_API void edgekit_session_destroy(edgekit_session* session);
/* Forgets all tokens, and a cancellation that no evaluation has noticed; keeps the memory. */
EDGEKIT_API void edgekit_session_reset(edgekit_session* session);
EDGEKIT_API uint32_t edgekit_session_position(const edgekit_session* session);
/* Any thread, also during an evaluation: waits for the pass that is under way (so not from a capture callback). */
EDGEKIT_API edgekit_status edgekit_session_stats(const edgekit_session* session, edgekit_stats* stats,
                                                 edgekit_error* error);
/* Makes the running (or else the next) evaluation end with EDGEKIT_CANCELLED. */
EDGEKIT_API void edgekit_session_cancel(edgekit_session* session);

/* callback NULL: none. */
EDGEKIT_API void edgekit_session_capture(edgekit_session* session, edgekit_capture_callback callback, void* user);
EDGEKIT_API void edgekit_session_capture_inputs(edgekit_session* session, edgekit_inputs_callback callback, void* user);

/* Appends `count` tokens. `logits`: NULL, or room for vocab_size floats (the last token's), or,
 * when all_logits is nonzero, for count * vocab_size floats. On an error the session keeps the
 * tokens it had before the call; with sliding windows, it may keep the first of the new ones too, as
 * edgekit_session_position then says. Logits that are not finite are an error (EDGEKIT_NOT_FINITE). */
EDGEKIT_API edgekit_status edgekit_session_eval(edgekit_session* session, const int32_t* tokens, uint32_t count,
                                                uint32_t all_logits, float* logits, edgekit_error* error);
/* The same for positions that are given as what stands for their tokens' embeddings, as an encoder makes it of a
 * picture (edgekit_session_encode): behind the scale and the projection of embeddings, before those of positions are
 * added. A session that has such positions is not saved, and convolutions and linear attention cannot go back to a
 * token behind them but to where a text began. */
EDGEKIT_API edgekit_status edgekit_session_eval_embeddings(edgekit_session* session, const edgekit_input* input,
                                                           uint32_t all_logits, float* logits, edgekit_error* error);
/* Vectors, and scores of rerankers, of texts [count], whose structs have one struct_size. An encoder reads each text
 * whole, and as many of them in one pass as the plan's max_batch tokens and 64 texts allow; a decoder reads one after
 * the other. The session's own tokens are forgotten. When the call fails, vectors that were not reached hold nothing.
 */
EDGEKIT_API edgekit_status edgekit_session_embed(edgekit_session* session, edgekit_embedding* texts, uint32_t count,
                                                 edgekit_error* error);
/* What a decoder reads of a picture (edgekit_session_eval_embeddings), by an encoder of pictures, which is a bundle of
 * its own: the folder "vision" of the decoder's. Each patch sees all others of the call. */
EDGEKIT_API edgekit_status edgekit_session_encode(edgekit_session* session, const edgekit_patches* patches,
                                                  edgekit_error* error);
/* Writes the session's tokens, keys and values to a file, which appears when it is whole; restoring reads
 * it into a session of the same bundle and type of cache (with any budget), which must have room. A
 * session that fails to restore is as after a reset. There are no logits until a token is evaluated. */
EDGEKIT_API edgekit_status edgekit_session_save(edgekit_session* session, const char* path, edgekit_error* error);
EDGEKIT_API edgekit_status edgekit_session_restore(edgekit_session* session, const char* path, edgekit_error* error);
/* How many tokens a saved session of any bundle has, in `count`; and the tokens themselves, if `room` is not less. What
 * else the file holds is not read: a damaged one may still fail to be restored. */
EDGEKIT_API edgekit_status edgekit_saved_tokens(const char* path, int32_t* tokens, uint32_t room, uint32_t* count,
                                                edgekit_error* error);
/* Forgets the tokens from `position` on, the token that edgekit_session_next chose last, and its random numbers: the
 * next is drawn from the seed, as after a reset. Layers with a sliding
 * window keep little more than the window: going back further than they allow, but for 0, fails with
 * EDGEKIT_INVALID_ARGUMENT, and the message says how far. Convolutions and linear attention remember even less, and
 * keep copies at some earlier tokens instead: the tokens behind the nearest one are evaluated again. */
EDGEKIT_API edgekit_status edgekit_session_rewind(edgekit_session* session, uint32_t position, edgekit_error* error);
/* Makes a session begin as another one of its model does: with the first `position` tokens, keys and values of `from`,
 * which no other thread may use meanwhile. There are no logits until a token is evaluated. Layers with a sliding window
 * limit the position as in edgekit_session_rewind. After an error the session is as after a reset, or, when arguments
 * are refused, as before. */
EDGEKIT_API edgekit_status edgekit_session_copy(edgekit_session* session, const edgekit_session* from,
                                                uint32_t position, edgekit_error* error);
/* Copies at most `room` of the session's tokens; returns how many it has. */
EDGEKIT_API uint32_t edgekit_session_tokens(const edgekit_session* session, int32_t* tokens, uint32_t room);
/* The next token of the text: appends the token that the last call chose, if there was one, and chooses another.
 * So a generation is an evaluated prompt and then one call for each token, ended by the caller at any token: the
 * session then holds the prompt and all tokens that were chosen but the last. edgekit_session_eval, _rewind, _reset
 * and _restore forget that last one. Fails with EDGEKIT_CONTEXT_FULL when there is no room for it. After an error the
 * session is as it was before the call, and the call may be made again; but after one of a mask, the token that was
 * chosen last is part of the text.
 *
 * For models opened with draft_tokens this is speculative decoding (arXiv 2211.17192, with samples in place of
 * rejections): a pass over several tokens reads the weights once. Tokens that may follow are drafted, from what
 * followed the same words before or by the draft session, and evaluated in one pass with the chosen one; calls that
 * choose the drafted tokens then need no pass. The text is that of no drafts with the same seed, but for the rounding
 * of sums of several tokens at once. For selections all and router; others would read around single neurons for every
 * draft. */
EDGEKIT_API edgekit_status edgekit_session_next(edgekit_session* session, const edgekit_sampling* sampling,
                                                int32_t* token, edgekit_error* error);
/* The first half of edgekit_session_next: appends the token that it chose last, if there is one, which takes the pass.
 * The next call of edgekit_session_next then only chooses. So a mask can be computed during the pass and given in
 * edgekit_sampling. */
EDGEKIT_API edgekit_status edgekit_session_advance(edgekit_session* session, edgekit_error* error);
/* edgekit_session_advance for `count` different sessions of one model, in one pass: each weight is read once for all of
 * them, and each session gets the bits that it gets alone. The next call of edgekit_session_next for each then only
 * chooses. errors [count] says what became of each session, and the status and `error` are those of the first that
 * failed. A session that has no room (EDGEKIT_CONTEXT_FULL), was cancelled or whose logits are not finite is as before
 * the call and does not touch the others; weights that cannot be read are an error of all. Arguments that are refused
 * leave everything as it was, errors included. More sessions than edgekit_options.sessions, 64 or the plan's max_batch
 * take several passes. Sessions of models with drafts or with selections other than all and router, and sessions that
 * capture, are advanced one by one. In edgekit_stats, bytes and units of a pass are divided among its sessions, and
 * its seconds count for each. No session may be used by another thread meanwhile. */
EDGEKIT_API edgekit_status edgekit_sessions_advance(edgekit_session* const* sessions, uint32_t count,
                                                    edgekit_error* errors, edgekit_error* error);
/* Drafts come from this session of a smaller model with the same vocabulary, which this one then drives; NULL, or
 * when the draft session is destroyed: from the text so far. A session drafts for one other at most. */
EDGEKIT_API edgekit_status edgekit_session_set_draft(edgekit_session* session, edgekit_session* draft,
                                                     edgekit_error* error);

/* Constrains what edgekit_session_next chooses, with drafts too: sampling is as if the tokens that the mask forbids did
 * not exist. A mask without any token is EDGEKIT_INVALID_ARGUMENT. NULL: every token may be chosen. */
EDGEKIT_API void edgekit_session_set_mask(edgekit_session* session, edgekit_mask_callback callback, void* user);
/* About the last choice of edgekit_session_next, until the session is used otherwise: natural logarithms of
 * probabilities as the model gives them, without biases, penalties, mask or temperature. `chosen`: of the token that
 * was chosen, or NULL. tokens and logprobs [count <= vocab_size]: the most probable ones, best first. */
EDGEKIT_API edgekit_status edgekit_session_logprobs(edgekit_session* session, float* chosen, int32_t* tokens,
                                                    float* logprobs, uint32_t count, edgekit_error* error);

/* One feed-forward block for an engine that computes the rest. `block` counts all blocks of the
 * model; x and out are f32 [tokens][hidden_size], tokens <= the plan's max_batch: x after the block's
 * norm, out before it is added to the residual. Reading ahead assumes that blocks are called in
 * order. Needs EDGEKIT_COMPUTE_FEED_FORWARD or _LINEAR. */
EDGEKIT_API edgekit_status edgekit_session_feed_forward(edgekit_session* session, uint32_t block, const float* x,
                                                        uint32_t tokens, float* out, edgekit_error* error);
/* out = W x of a projection of attention or of the head, by its place in the manifest's list of matrices:
 * x is f32 [tokens][columns], out [tokens][rows], tokens <= the plan's max_batch; sizes that are not the
 * matrix's are refused. Needs EDGEKIT_COMPUTE_LINEAR. */
EDGEKIT_API edgekit_status edgekit_session_linear(edgekit_session* session, uint32_t matrix, const float* x,
                                                  uint32_t columns, uint32_t tokens, float* out, uint32_t rows,
                                                  edgekit_error* error);
/* Chooses a token from logits [vocab] that another engine computed, as edgekit_session_next does.
 * history: the tokens so far, for the repetition penalty. random_state: the seed at first; updated. */
EDGEKIT_API edgekit_status edgekit_sample(const float* logits, uint32_t vocab, const edgekit_sampling* sampling,
                                          const int32_t* history, uint32_t history_count, uint64_t* random_state,
                                          int32_t* token, edgekit_error* error);

/* Measure this device; nothing is opened but the file. */
EDGEKIT_API edgekit_status edgekit_measure_reads(const char* path, edgekit_read_test* test, edgekit_error* error);
EDGEKIT_API edgekit_status edgekit_measure_kernel(edgekit_kernel_test* test, edgekit_error* error);

/* Chooses codes and scales of trellis rows. Numbers that are not finite are refused. */
EDGEKIT_API edgekit_status edgekit_trellis_encode(edgekit_trellis* job, edgekit_error* error);

#ifdef __cplusplus
}
#endif
#endif
