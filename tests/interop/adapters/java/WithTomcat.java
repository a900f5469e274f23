import java.io.IOException;
import java.net.URI;
import java.util.Collections;
import java.util.List;
import javax.websocket.ClientEndpointConfig;
import javax.websocket.CloseReason;
import javax.websocket.ContainerProvider;
import javax.websocket.Endpoint;
import javax.websocket.EndpointConfig;
import javax.websocket.Extension;
import javax.websocket.MessageHandler;
import javax.websocket.Session;
import javax.websocket.WebSocketContainer;

/** Tomcat's client, which any program with the JSR 356 API may have. */
final class WithTomcat {
    public static void main(String[] args) throws Exception {
        WebSocketContainer container = ContainerProvider.getWebSocketContainer();
        container.setDefaultMaxTextMessageBufferSize(1 << 21);
        Extension deflate = new Extension() {
            @Override public String getName() {
                return "permessage-deflate";
            }

            @Override public List<Parameter> getParameters() {
                return Collections.emptyList();
            }
        };
        List<Extension> extensions = args[1].equals("deflate") ? List.of(deflate) : List.of();
        Session session = container.connectToServer(new Endpoint() {
            @Override public void onOpen(Session session, EndpointConfig config) {
                Lines.say("open");
                session.addMessageHandler(String.class, (MessageHandler.Whole<String>) text -> Lines.say("text", text));
            }

            @Override public void onClose(Session session, CloseReason reason) {
                Lines.say("close", reason.getCloseCode().getCode(), reason.getReasonPhrase());
            }

            @Override public void onError(Session session, Throwable error) {
                Lines.say("ended", error);
            }
        }, ClientEndpointConfig.Builder.create().extensions(extensions).build(), URI.create(args[0]));
        Lines.obey(text -> {
            try {
                session.getBasicRemote().sendText(text);
            } catch (IOException error) {
                Lines.say("error", error);
            }
        }, () -> {
            try {
                session.close(new CloseReason(CloseReason.CloseCodes.NORMAL_CLOSURE, "bye"));
            } catch (IOException error) {
                Lines.say("error", error);
            }
        });
    }
}
