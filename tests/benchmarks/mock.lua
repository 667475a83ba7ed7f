-- The mock upstream's answers, by the model that the request names:
--   json    a short chat.completion
--   stream  chunks as vLLM sends them, each flushed separately, as fast as possible
--   paced   the same chunks at 50 a second
-- `max_tokens` is the number of chunks with text (by default 61: 64 chunks with role, finish reason and usage).

local PACE_S = 0.02
local HEAD = '{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk",'
  .. '"created":1700000000,"model":"mock","choices":['
local ROLE = 'data: ' .. HEAD .. '{"index":0,"delta":{"role":"assistant","content":""},'
  .. '"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}\n\n'
local TEXT = 'data: ' .. HEAD .. '{"index":0,"delta":{"content":" token"},'
  .. '"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
local FINISH = 'data: ' .. HEAD .. '{"index":0,"delta":{"content":""},'
  .. '"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}]}\n\n'
local USAGE = 'data: ' .. HEAD .. '],"usage":{"prompt_tokens":12,"total_tokens":73,"completion_tokens":61}}\n\n'
local DONE = 'data: [DONE]\n\n'
local JSON = '{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion","created":1700000000,'
  .. '"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?",'
  .. '"refusal":null,"annotations":null,"audio":null,"function_call":null,"tool_calls":[],"reasoning":null},'
  .. '"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}],"service_tier":null,'
  .. '"system_fingerprint":null,"usage":{"prompt_tokens":12,"total_tokens":22,"completion_tokens":10,'
  .. '"prompt_tokens_details":null},"prompt_logprobs":null,"kv_transfer_params":null}'

local function send(chunk)
  ngx.print(chunk)
  ngx.flush(true)
end

local function stream(texts, pause_s)
  ngx.header.content_type = 'text/event-stream; charset=utf-8'
  send(ROLE)
  for _ = 1, texts do
    if pause_s then ngx.sleep(pause_s) end
    send(TEXT)
  end
  send(FINISH)
  send(USAGE)
  ngx.print(DONE)
end

local mock = {}

function mock.answer()
  ngx.req.read_body()
  local body = ngx.req.get_body_data() or ''
  local model = body:match('"model"%s*:%s*"(%a+)"')
  local texts = tonumber(body:match('"max_tokens"%s*:%s*(%d+)')) or 61
  if model == 'json' then
    ngx.header.content_type = 'application/json'
    ngx.header.content_length = #JSON
    ngx.print(JSON)
  elseif model == 'stream' then
    stream(texts, nil)
  elseif model == 'paced' then
    stream(texts, PACE_S)
  else
    ngx.exit(400)
  end
end

return mock
