import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.util.concurrent.CompletionStage;

/** The JDK's own client, java.net.http. */
final class WithJdk {
    public static void main(String[] args) throws Exception {
        StringBuilder message = new StringBuilder();
        WebSocket socket = HttpClient.newHttpClient().newWebSocketBuilder().buildAsync(URI.create(args[0]), new WebSocket.Listener() {
            @Override public void onOpen(WebSocket socket) {
                Lines.say("open");
                socket.request(1);
            }

            @Override public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
                message.append(part);
                if (last) {
                    Lines.say("text", message);
                    message.setLength(0);
                }
                socket.request(1);
                return null;
            }

            @Override public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
                Lines.say("close", code, reason);
                return null;
            }

            @Override public void onError(WebSocket socket, Throwable error) {
                Lines.say("ended", error);
            }
        }).join();
        Lines.obey(text -> socket.sendText(text, true).join(), () -> socket.sendClose(1000, "bye").join());
    }
}
