#include "daemon/model/cause.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/unit.h"

static struct cause cause;

static void add(const char *text) {
        cause_add(&cause, text, strlen(text));
}

/* Adds the lines of a log. */
static void add_log(const char *log) {
        for (const char *end; (end = strchr(log, '\n')); log = end + 1)
                cause_add(&cause, log, (size_t)(end - log));
}

#define CORE "(EngineCore_DP0 pid=71) "
#define CORE_ERROR CORE "ERROR 10-12 09:30:12 [core.py:708] "
#define SERVER "(APIServer pid=1) "
#define FRAME(prefix, file) prefix "  File \"/usr/lib/python3.12/site-packages/" file ".py\", line 123, in call\n" \
                            prefix "    return self.call(*args, **kwargs)  # error out of memory\n" \
                            prefix "           ^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
#define FRAMES(prefix) FRAME(prefix, "a") FRAME(prefix, "b") FRAME(prefix, "c") FRAME(prefix, "d") FRAME(prefix, "e") FRAME(prefix, "f")

/* Shapes of the logs that servers write when they fail, and the line that says why. */
static const struct {
        const char *log;
        const char *line;
} logs[] = {
        /* vLLM: two tracebacks and what gave up because of it. */
        {
                CORE "INFO 10-12 09:29:40 [gpu_model_runner.py:2602] Starting to load model /models/qwen...\n"
                CORE "\rLoading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]"
                     "\rLoading safetensors checkpoint shards: 100% Completed | 4/4 [00:02<00:00,  1.5it/s]\n"
                CORE "INFO 10-12 09:30:10 [gpu_worker.py:298] Available KV cache memory: -3.02 GiB\n"
                CORE_ERROR "EngineCore failed to start.\n"
                CORE_ERROR "Traceback (most recent call last):\n"
                FRAMES(CORE_ERROR)
                CORE_ERROR "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 GiB. GPU 0 has a total capacity of "
                           "23.64 GiB of which 812.75 MiB is free.\n"
                CORE "Process EngineCore_DP0:\n"
                CORE "Traceback (most recent call last):\n"
                FRAMES(CORE)
                CORE "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 GiB.\n"
                "[rank0]:[W1012 09:30:13.1 ProcessGroupNCCL.cpp:1538] Warning: WARNING: destroy_process_group() was not called "
                "before program exit, which can leak resources.\n"
                SERVER "Traceback (most recent call last):\n"
                FRAMES(SERVER) FRAMES(SERVER)
                SERVER "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
                "/usr/lib/python3.12/multiprocessing/resource_tracker.py:279: UserWarning: resource_tracker: There appear to be 1 "
                "leaked shared_memory objects to clean up at shutdown\n"
                "  warnings.warn('resource_tracker: There appear to be %d '\n",
                CORE_ERROR "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 GiB. GPU 0 has a total capacity of "
                           "23.64 GiB of which 812.75 MiB is free.",
        },
        /* vLLM: the length does not fit. */
        {
                CORE_ERROR "EngineCore failed to start.\n"
                CORE_ERROR "Traceback (most recent call last):\n"
                FRAMES(CORE_ERROR)
                CORE_ERROR "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is "
                           "needed, which is larger than the available KV cache memory (5.42 GiB).\n"
                SERVER "Traceback (most recent call last):\n"
                FRAMES(SERVER)
                SERVER "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n",
                CORE_ERROR "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is "
                           "needed, which is larger than the available KV cache memory (5.42 GiB).",
        },
        /* vLLM: no such model. */
        {
                SERVER "INFO 10-12 09:29:40 [api_server.py:1896] vLLM API server version 0.11.0\n"
                SERVER "Traceback (most recent call last):\n"
                FRAMES(SERVER)
                SERVER "OSError: /models/nothing is not a local folder and is not a valid model identifier listed on "
                       "'https://huggingface.co/models'\n",
                SERVER "OSError: /models/nothing is not a local folder and is not a valid model identifier listed on "
                       "'https://huggingface.co/models'",
        },
        /* llama.cpp: the memory of the GPU. */
        {
                "ggml_cuda_init: found 1 CUDA devices:\n"
                "  Device 0: NVIDIA GeForce RTX 3090, compute capability 8.6, VMM: yes\n"
                "main: loading model\n"
                "srv    load_model: loading model '/models/x.gguf'\n"
                "print_info: file type   = Q4_K - Medium\n"
                "load_tensors: loading model tensors, this can take a while... (mmap = true)\n"
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 20480.00 MiB on device 0: cudaMalloc failed: out of memory\n"
                "alloc_tensor_range: failed to allocate CUDA0 buffer of size 21474836480\n"
                "llama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
                "llama_model_load_from_file_impl: failed to load model\n"
                "common_init_from_params: failed to load model '/models/x.gguf'\n"
                "srv    load_model: failed to load model, '/models/x.gguf'\n"
                "srv    operator(): operator(): cleaning up before exit...\n"
                "main: exiting due to model loading error\n",
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 20480.00 MiB on device 0: cudaMalloc failed: out of memory",
        },
        /* llama.cpp: no file. */
        {
                "build: 4719 (c18610b4) with cc (Debian 12.2.0-14) 12.2.0 for x86_64-linux-gnu\n"
                "main: loading model\n"
                "gguf_init_from_file: failed to open GGUF file '/models/none.gguf'\n"
                "llama_model_load: error loading model: llama_model_loader: failed to load model from /models/none.gguf\n\n"
                "llama_model_load_from_file_impl: failed to load model\n"
                "common_init_from_params: failed to load model '/models/none.gguf'\n"
                "main: error: unable to load model\n",
                "gguf_init_from_file: failed to open GGUF file '/models/none.gguf'",
        },
        {
                "llama_model_load: error loading model: error loading model architecture: unknown model architecture: 'qwen9'\n"
                "llama_model_load_from_file_impl: failed to load model\n"
                "main: exiting due to model loading error\n",
                "llama_model_load: error loading model: error loading model architecture: unknown model architecture: 'qwen9'",
        },
        {
                "main: binding port with default address family\n"
                "start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080\n"
                "main: exiting due to HTTP server error\n",
                "start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080",
        },
        { "error: invalid argument: --info\n", "error: invalid argument: --info" },
        /* Before main(). */
        {
                "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: No such file or "
                "directory\n",
                "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: No such file or "
                "directory",
        },
        /* Ollama. */
        {
                "time=2025-10-12T09:30:12.1Z level=INFO source=sched.go:447 msg=\"system memory\" total=\"31.2 GiB\"\n"
                "time=2025-10-12T09:30:14.1Z level=WARN source=ggml.go:649 msg=\"model missing key\" error=\"none\"\n"
                "time=2025-10-12T09:30:15.1Z level=ERROR source=server.go:1004 msg=\"do load request\" error=\"cudaMalloc failed: out of "
                "memory\"\n"
                "Error: llama runner process has terminated: exit status 2\n",
                "time=2025-10-12T09:30:15.1Z level=ERROR source=server.go:1004 msg=\"do load request\" error=\"cudaMalloc failed: out of "
                "memory\"",
        },
        /* TGI. */
        {
                "2025-10-12T09:30:12Z  INFO text_generation_launcher: Starting check and download process\n"
                "2025-10-12T09:30:12Z ERROR download: text_generation_launcher: Download encountered an error: \n"
                "Traceback (most recent call last):\n"
                FRAMES("")
                "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-6)\n"
                "Error: DownloadError\n",
                "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-6)",
        },
        /* SGLang. */
        {
                "[2025-10-12 09:30:12 TP0] Scheduler hit an exception: Traceback (most recent call last):\n"
                FRAMES("")
                "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n\n"
                "[2025-10-12 09:30:13] Received sigquit from a child process. It usually means the child failed.\n"
                "[2025-10-12 09:30:13] Rank 0 scheduler is dead. Please check if there are relevant logs.\n",
                "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        },
        /* No word of an error: the last line. */
        { "one\ntwo\n\n   \n", "two" },
        { "\n", "" },
        /* Warnings and access lines are none, as long as there is anything else. */
        {
                "x.py:12: FutureWarning: `torch_dtype` is not supported any more\n"
                "INFO:     127.0.0.1:4711 - \"POST /v1/completions HTTP/1.1\" 500 Internal Server Error\n"
                "Segmentation fault\n",
                "Segmentation fault",
        },
        { "\033[1;31mFatal:\033[0m caf\xc3\xa9 \xff\t.\r\n", "Fatal: caf\xc3\xa9 ? ." },
};

START_TEST(cause_logs) {
        add_log(logs[_i].log);
        ck_assert_str_eq(cause_line(&cause), logs[_i].line);
}
END_TEST

/* Of a progress bar the last state. */
START_TEST(cause_progress) {
        char text[512];

        add("loading:  1%\rloading: 50%\rloading: 99%\r\r");
        ck_assert_str_eq(cause_line(&cause), "loading: 99%");
        add("\r\r\r");
        cause_summary(&cause, text, sizeof(text));
        ck_assert_str_eq(text, "loading: 99%\n");
}
END_TEST

/* As old a line as there are CAUSE_LINES behind it is found; an older one is forgotten. */
START_TEST(cause_age) {
        add("cudaMalloc failed: out of memory");
        for (unsigned i = 1; i < CAUSE_LINES; i++)
                add("and then this error");
        ck_assert_str_eq(cause_line(&cause), "cudaMalloc failed: out of memory");
        add("and then this error");
        ck_assert_str_eq(cause_line(&cause), "and then this error");
        cause_clear(&cause);
        ck_assert_str_eq(cause_line(&cause), "");
}
END_TEST

START_TEST(cause_long) {
        char line[2 * CAUSE_LINE_MAX];

        memset(line, 'x', sizeof(line));
        cause_add(&cause, line, sizeof(line));
        ck_assert_uint_eq(strlen(cause_line(&cause)), CAUSE_LINE_MAX - 1);
}
END_TEST

/* The cause first, and then the last lines without it. */
START_TEST(cause_few) {
        char text[512], small[16];

        cause_summary(&cause, text, sizeof(text));
        ck_assert_str_eq(text, "");
        add("zero");
        add("fatal: one");
        for (char line[] = "a"; line[0] <= 'f'; line[0]++)
                add(line);
        cause_summary(&cause, text, sizeof(text));
        ck_assert_str_eq(text, "fatal: one\nc\nd\ne\nf\n");
        cause_summary(&cause, small, sizeof(small));
        ck_assert_str_eq(small, "fatal: one\nc\nd\n");
        cause_clear(&cause);
        add("a");
        add("fatal: b");
        add("c");
        cause_summary(&cause, text, sizeof(text));
        ck_assert_str_eq(text, "fatal: b\na\nc\n");
}
END_TEST

static void setup(void) {
        cause_clear(&cause);
}

static Suite *cause_suite(void) {
        Suite *suite = suite_create("cause");
        TCase *tcase = tcase_create("cause");

        tcase_add_checked_fixture(tcase, setup, NULL);
        unit_add_table(tcase, cause_logs, logs);
        tcase_add_test(tcase, cause_progress);
        tcase_add_test(tcase, cause_age);
        tcase_add_test(tcase, cause_long);
        tcase_add_test(tcase, cause_few);
        suite_add_tcase(suite, tcase);
        return suite;
}

UNIT_MAIN(cause_suite)
