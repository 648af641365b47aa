// What programs that use the openai package meet when the model behind msd loads, fails, or refuses.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';

const { MSD, SERVER } = process.env;
const PATIENCE = 60_000;

// Waits for a promise, but not for ever.
function within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`Waited in vain for ${what}`)), PATIENCE);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// An msd of a test's own, at a port of its own.
class Daemon {
    constructor(directory, options) {
        this.errors = '';
        this.listeners = [];
        this.process = spawn(MSD, ['--socket', join(directory, 'msd.sock'), '--http', '127.0.0.1:0', ...options(directory)],
            { stdio: ['ignore', 'ignore', 'pipe'] });
        this.ended = new Promise((resolve) => this.process.on('exit', (status, signal) => resolve(signal ?? status)));
        this.process.stderr.setEncoding('utf8').on('data', (text) => {
            this.errors += text;
            this.listeners.forEach((look) => look());
        });
    }

    // Waits until standard error has it.
    said(pattern) {
        return within(new Promise((resolve) => {
            const look = () => {
                const match = pattern.exec(this.errors);
                if (match)
                    resolve(match);
            };
            this.listeners.push(look);
            look();
        }), `${pattern} in: ${this.errors}`);
    }

    async listening() {
        this.url = `http://${(await this.said(/Listening for HTTP at (\S+)\n/))[1]}`;
    }

    client(options = {}) {
        return new OpenAI({ baseURL: `${this.url}/v1`, apiKey: 'sk-test', maxRetries: 0, ...options });
    }

    // Waits until the status says so.
    async status(done, what) {
        for (const deadline = Date.now() + PATIENCE; ;) {
            const status = await (await fetch(`${this.url}/-/status`)).json();
            if (done(status))
                return status;
            assert(Date.now() < deadline, `Waited in vain until ${what}: ${JSON.stringify(status)}`);
        }
    }

    waiting(n) {
        return this.status((status) => status.waiting === n, `${n} wait`);
    }
}

let checks = 0, failures = 0;

async function test(name, options, run) {
    const directory = await mkdtemp(join(tmpdir(), 'msd-openai-'));
    const daemon = new Daemon(directory, options);

    checks++;
    try {
        await daemon.listening();
        await within(run(daemon), `the end of it; msd says: ${daemon.errors}`);
        daemon.process.kill('SIGTERM');
        assert.equal(await within(daemon.ended, 'the end of msd'), 0, `msd did not end well: ${daemon.errors}`);
        assert(!/Sanitizer|runtime error:/.test(daemon.errors), daemon.errors);
    } catch (error) {
        failures++;
        console.log(`${name}: ${error.stack}`);
        daemon.process.kill('SIGKILL');
        await daemon.ended;
    }
    await rm(directory, { recursive: true, force: true });
}

const sim = (...options) => () => options;
const upstream = (options, ofServer) => (directory) =>
    ['--upstream', `unix:${join(directory, 'up.sock')}`, ...options, '--', SERVER, '--socket', join(directory, 'up.sock'), ...ofServer];

const chat = (content = 'hello') => ({ model: 'any', messages: [{ role: 'user', content }] });

async function textOf(stream) {
    let text = '';
    for await (const chunk of stream)
        text += chunk.choices[0]?.delta?.content ?? '';
    return text;
}

for (const keepalive of ['0', '50ms']) {
    await test(`sim, keepalive ${keepalive}`, sim('--load-time', '1s', '--stream-keepalive', keepalive), async (daemon) => {
        const client = daemon.client();
        const whole = client.chat.completions.create(chat());
        const streamed = client.chat.completions.create({ ...chat(), stream: true }).then(textOf);
        const completion = client.completions.create({ model: 'any', prompt: 'hello' });
        const models = client.models.list();

        await daemon.waiting(4);
        const answer = await whole;
        assert.match(answer.choices[0].message.content, /^Response http-\d from sim$/);
        assert.equal(answer.choices[0].finish_reason, 'stop');
        assert.equal(answer.model, 'sim');
        assert.match(await streamed, /^Response http-\d from sim$/);
        assert.match((await completion).choices[0].text, /^Response http-\d from sim$/);
        assert.deepEqual((await models).data.map((model) => model.id), ['sim']);
        assert.equal((await client.models.retrieve('sim')).id, 'sim');
        await assert.rejects(client.models.retrieve('other'), OpenAI.NotFoundError);
    });
}

await test('a model server', upstream([], ['--load', '700ms', '--key', 'sk-test']), async (daemon) => {
    const client = daemon.client();
    const whole = client.chat.completions.create(chat());
    const streamed = client.chat.completions.create({ ...chat(), stream: true }).then(textOf);
    const wrong = daemon.client({ apiKey: 'sk-wrong' }).chat.completions.create(chat());
    const wrongStream = daemon.client({ apiKey: 'sk-wrong' }).chat.completions.create({ ...chat(), stream: true });
    const refused = (error) => {
        assert(error instanceof OpenAI.AuthenticationError, `${error}`);
        assert.equal(error.status, 401);
        assert.match(error.message, /Incorrect API key provided/);
        return true;
    };

    await Promise.all([daemon.waiting(4), assert.rejects(wrong, refused), assert.rejects(wrongStream, refused)]);
    assert.equal((await whole).choices[0].message.content, 'echo hello');
    assert.equal(await streamed, 'echo hello');
    await assert.rejects(client.chat.completions.create(chat('status 429')), OpenAI.RateLimitError);
    await assert.rejects(client.chat.completions.create(chat('status 400')), OpenAI.BadRequestError);
});

await test('a cancelled stream', upstream([], ['--think', '50ms']), async (daemon) => {
    const stream = await daemon.client().chat.completions.create({ ...chat('x'.repeat(1000)), stream: true });

    for await (const chunk of stream) {
        assert.equal(chunk.object, 'chat.completion.chunk');
        break;
    }
    stream.controller.abort();
    await daemon.said(/upstream: cancelled/);
    await daemon.status((status) => status.cancelled === 1 && status.processing === 0, 'it is cancelled');
});

await test('cancelled while it waits', sim('--load-time', '1h'), async (daemon) => {
    const controller = new AbortController();
    const whole = daemon.client().chat.completions.create(chat(), { signal: controller.signal });
    const failed = assert.rejects(whole, OpenAI.APIUserAbortError);

    await daemon.waiting(1);
    controller.abort();
    await failed;
    await daemon.status((status) => status.cancelled === 1 && status.waiting === 0, 'it is cancelled');
});

await test('a stream that breaks', upstream([], []), async (daemon) => {
    // Where all that there is of it has come by then, it is an error from the first.
    const stream = async () => textOf(await daemon.client().chat.completions.create({ ...chat('cutstream'), stream: true }));

    await assert.rejects(stream, 'half a stream came as a whole one');
});

const noWeights = (error) => {
    assert(error instanceof OpenAI.InternalServerError, `${error}`);
    assert.equal(error.status, 503);
    assert.equal(error.code, 'load-failed');
    assert.match(error.message, /No such weights/);
    return true;
};

await test('a load that fails', sim('--load-time', '700ms', '--load-failure', 'No such weights', '--on-load-failure', 'stay'),
    async (daemon) => {
        const client = daemon.client();
        const whole = assert.rejects(client.chat.completions.create(chat()), noWeights);
        const streamed = assert.rejects(client.chat.completions.create({ ...chat(), stream: true }), noWeights);

        await daemon.waiting(2);
        await whole;
        await streamed;
        await assert.rejects(client.chat.completions.create(chat()), noWeights);
    });

await test('a load that fails under a stream that was told to wait',
    sim('--load-time', '700ms', '--load-failure', 'No such weights', '--on-load-failure', 'stay', '--stream-keepalive', '50ms'),
    async (daemon) => {
        const stream = await daemon.client().chat.completions.create({ ...chat(), stream: true });

        await assert.rejects(textOf(stream), (error) => {
            assert(error instanceof OpenAI.APIError, `${error}`);
            assert.match(error.message, /No such weights/);
            return true;
        });
    });

await test('one that has no place comes again', sim('--load-time', '1s', '--max-waiting', '1'), async (daemon) => {
    const first = daemon.client().chat.completions.create(chat());

    await daemon.waiting(1);
    await assert.rejects(daemon.client().chat.completions.create(chat()), (error) => error.code === 'queue-full');
    const again = daemon.client({ maxRetries: 10 }).chat.completions.create(chat());
    assert.equal((await first).object, 'chat.completion');
    assert.equal((await again).object, 'chat.completion');
});

await test('many at once', sim('--load-time', '5s', '--inference-time', '10ms'), async (daemon) => {
    const client = daemon.client();
    const all = Array.from({ length: 100 }, () => client.chat.completions.create(chat()));

    await daemon.waiting(100);
    const texts = new Set((await Promise.all(all)).map((answer) => answer.choices[0].message.content));
    assert.equal(texts.size, 100);
});

console.log(`${Math.trunc((100 * (checks - failures)) / checks)}%: Checks: ${checks}, Failures: ${failures}, Errors: 0`);
process.exit(failures > 0 ? 1 : 0);
