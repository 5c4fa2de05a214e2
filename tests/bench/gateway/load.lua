-- wrk's side of the bench: posts one chat request over and over, and looks at every answer.
--
--   wrk -t1 … -s load.lua URL -- BODY KIND TOKEN
--
-- BODY is a file; KIND is "whole" or "stream"; TOKEN goes into Authorization.
-- An answer is right when its status is 200 and its words w00 … w63 are all there in order; a stream also ends with [DONE].
-- The figures are printed as one line of JSON.

local WORDS = 64
local MEMO = 16 -- bodies that were found right: most gateways answer with the same bytes each time

local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local file = assert(io.open(args[1], "rb"))
   local body = file:read("*a")
   file:close()
   kind = args[2]
   sent, answered, wrong, statuses = 0, 0, 0, 0
   known, memo = {}, 0
   first_wrong = ""
   text = wrk.format("POST", nil, {
      ["Content-Type"] = "application/json",
      ["Authorization"] = "Bearer " .. args[3],
   }, body)
end

function request()
   sent = sent + 1
   return text
end

local function whole(body)
   local next = 0
   for number in body:gmatch("w(%d%d) ") do
      if tonumber(number) ~= next then
         return false
      end
      next = next + 1
   end
   return next == WORDS
end

local function stream(body)
   local next = 0
   for number in body:gmatch('"content": ?"w(%d%d) "') do
      if tonumber(number) ~= next then
         return false
      end
      next = next + 1
   end
   return next == WORDS and body:find("data: %[DONE%]%s*$") ~= nil
end

function response(status, headers, body)
   answered = answered + 1
   if status ~= 200 then
      statuses = statuses + 1
      if first_wrong == "" then
         first_wrong = status .. " " .. body:sub(1, 300)
      end
      return
   end
   if known[body] then
      return
   end
   local right
   if kind == "stream" then
      right = stream(body)
   else
      right = whole(body)
   end
   if not right then
      wrong = wrong + 1
      if first_wrong == "" then
         first_wrong = body:sub(1, 300) .. " … " .. body:sub(-100)
      end
   elseif memo < MEMO then
      known[body] = true
      memo = memo + 1
   end
end

local function quoted(text)
   return '"' .. text:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

function done(summary, latency, requests)
   local t, e = threads[1], summary.errors
   io.write(string.format(
      '\n{"sent":%d,"answered":%d,"wrong":%d,"statuses":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,'
      .. '"connect":%d,"read":%d,"write":%d,"timeout":%d,"first_wrong":%s}\n',
      t:get("sent"), t:get("answered"), t:get("wrong"), t:get("statuses"), summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      e.connect, e.read, e.write, e.timeout, quoted(t:get("first_wrong"))))
end
